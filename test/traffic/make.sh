#!/bin/bash
# make.sh [THEME...]: makes testdata/traffic/THEME.pcap again, all themes at once without arguments.
# README.md says what each theme holds and what has to be installed. It needs root, for network namespaces.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${OUT:-$root/testdata/traffic}
python=${PYTHON:-python3} # one that has aioquic, for the theme quic
themes=(web quic dns login p2p scans resets reuse pauses midstream misc)

if [ $# -ne 1 ]; then
	[ $# -gt 0 ] || set -- "${themes[@]}"
	failed=0 pids=()
	for theme; do "$0" "$theme" & pids+=($!); done
	for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
	exit $failed
fi

theme=$1
work=$(mktemp -d /tmp/traffic.XXXXXX)
hosts=(client server peer)
pids=()  # of what runs in the background
wire=    # pid of the wire

cleanup() {
	kill "${pids[@]}" $wire 2>/dev/null || true
	wait 2>/dev/null || true
	local h left
	for h in "${hosts[@]}"; do # clients of background subshells are in the namespaces still
		left=$(ip netns pids "tr-$theme-$h" 2>/dev/null) || continue
		[ -z "$left" ] || kill -KILL $left 2>/dev/null || true
		ip netns del "tr-$theme-$h" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT

# as HOST COMMAND...: becomes a command on a host, under the host's name instead of this machine's.
as() {
	local h=$1; shift
	exec ip netns exec "tr-$theme-$h" unshare --uts sh -c 'hostname "$0"; exec "$@"' "$h.example" "$@" >>"$work/log" 2>&1 </dev/null
}

# on HOST COMMAND...: runs a command on a host; a client's failure is part of the traffic.
on() { (as "$@") || true; }

# bg HOST COMMAND...: the same in the background until the end.
bg() { as "$@" & pids+=($!); }

# play HOST SCRIPT ARGUMENTS...: runs one of the Python programs of this folder on a host.
play() { local h=$1 s=$2; shift 2; on "$h" "$python" "$here/$s" "$@"; }
playbg() { local h=$1 s=$2; shift 2; bg "$h" "$python" "$here/$s" "$@"; }

# make_host NAME MAC IPV4-PREFIX IPV6-PREFIX: a namespace with a TAP device and four addresses of either version.
make_host() {
	local ns=tr-$theme-$1 i
	ip netns add "$ns"
	ip -n "$ns" link set lo up
	ip -n "$ns" tuntap add dev wire0 mode tap
	ip -n "$ns" link set wire0 address "$2" mtu 1500 up
	for i in 1 2 3 4; do
		ip -n "$ns" addr add "$3.$i/15" dev wire0
		ip -n "$ns" addr add "$4::$i/32" dev wire0 nodad
	done
	ip -n "$ns" route add 224.0.0.0/4 dev wire0
}

# start_wire FLAGS...: joins the hosts and begins to record.
start_wire() {
	"$work/wire" -out "$work/$theme.pcap" -hosts "$delays" "$@" >"$work/ready" 2>>"$work/log" &
	wire=$!
	until grep -q ready "$work/ready"; do kill -0 $wire; sleep 0.1; done
	sleep 2 # carrier and neighbour tables
}

# wait_port HOST PORT: until a server listens.
wait_port() {
	local i
	for i in $(seq 50); do
		ip netns exec "tr-$theme-$1" ss -Hltun "sport = :$2" | grep -q . && return
		sleep 0.1
	done
	echo "$theme: nothing listens on port $2 of $1" >&2
	cat "$work/log" >&2
	exit 1
}

certificate() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=www.example \
		-addext subjectAltName=DNS:www.example -keyout "$work/key.pem" -out "$work/cert.pem" 2>>"$work/log"
}

start_nginx() {
	certificate
	mkdir -p "$work/html"
	head -c 1500 /dev/zero >"$work/html/small"
	head -c 60000 /dev/zero >"$work/html/large"
	sed "s#@WORK@#$work#g" "$here/nginx.conf" >"$work/nginx.conf"
	bg server nginx -c "$work/nginx.conf"
	wait_port server 8443
}

start_sshd() {
	ssh-keygen -q -t ed25519 -N '' -f "$work/hostkey"
	ssh-keygen -q -t ed25519 -N '' -f "$work/userkey"
	cp "$work/userkey.pub" "$work/authorized"
	mkdir -p /run/sshd
	cat >"$work/sshd_config" <<-END
		HostKey $work/hostkey
		AuthorizedKeysFile $work/authorized
		PidFile none
		Port 22
		PermitRootLogin prohibit-password
		PasswordAuthentication no
		StrictModes no
		Subsystem sftp internal-sftp
	END
	bg server /usr/sbin/sshd -D -e -f "$work/sshd_config"
	wait_port server 22
}

ssh_options() { echo "-F none -i $work/userkey -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"; }

theme_web() {
	start_nginx
	start_wire
	local v4=http://198.18.2.1 v6="http://[2001:db8:2::1]" tls=https://198.18.2.1 i
	on client curl -s -o /dev/null --limit-rate 600 $v4/large --max-time 75 & pids+=($!) # longer than the active timeout
	on client curl -s -o /dev/null $v4:8080/slow --max-time 70 & pids+=($!)
	on client openssl s_client -connect 198.18.2.3:443 -quiet -no_ign_eof & pids+=($!)
	for i in 1 2 3; do
		on client curl -s $v4/small
		on client curl -s --interface 198.18.1.2 $v4/small $v4/large $v4/small $v4/missing # one connection
		on client curl -s --interface 198.18.1.3 -H 'Connection: close' $v4/small          # the server closes
		on client curl -s -0 http://198.18.2.2/small
		on client curl -s $v6/small $v6/large
		on peer curl -s -X POST --data-binary @"$work/html/large" $v4/small
		on client curl -sk $tls/small $tls/large
		on client curl -sk --tls-max 1.2 --http1.1 https://198.18.2.2/small
		on client curl -sk "https://[2001:db8:2::2]:8443/small"
		on client curl -s $tls/small # an alert: the certificate is not trusted
		on client curl -s http://198.18.2.1:443/small
		sleep 1
	done
	on client curl -s -Z --parallel-max 12 $v4/small'?[1-12]' $v4/large'?[1-6]'
	on peer curl -sk -Z --parallel-max 8 --http1.1 $tls/small'?[1-8]'
	on client curl -s $v4:8080/slow --max-time 0.6 # given up in the middle of the answer
	on client curl -s "$v6:8080/slow" --max-time 1.1
	on client timeout -s KILL 0.5 curl -s $v4:8080/slow
	on client curl -s $v4:8080/nothing # the server closes without an answer
	on client ncat 198.18.2.1 80       # no request
	on client timeout 6 ncat --no-shutdown 198.18.2.1 80 -i 5
	for i in 1 2 3; do # idle between two requests of one connection
		on client curl -s $v4/small --next $v4/small --rate 20/m
		sleep 4
	done
	sleep 35
}

theme_quic() {
	certificate
	start_wire
	playbg server quic.py serve "$work/cert.pem" "$work/key.pem" 443
	playbg server quic.py serve "$work/cert.pem" "$work/key.pem" 4433
	wait_port server 443
	wait_port server 4433
	play client quic.py ask 198.18.2.1 443 --idle 17 --times 3 & pids+=($!)
	play client quic.py ask 198.18.2.3 443 --idle 40 --times 2 & pids+=($!)
	play client quic.py ask 198.18.2.2 443 --abandon
	local i
	for i in 1 2 3 4; do
		play client quic.py ask 198.18.2.1 443
		play client quic.py ask 198.18.2.2 443 --octets 40000 --times 2
		play peer quic.py ask 2001:db8:2::1 443 --octets 9000
		play client quic.py ask 198.18.2.1 4433 --times 4
		play peer quic.py ask 198.18.2.4 4433
	done
	play client quic.py ask 198.18.2.1 4434 # nobody there: ICMP
	sleep 65
}

theme_dns() {
	local h
	for h in server peer; do
		mkdir -p "$work/$h"
		sed "s#@WORK@#$work/$h#g" "$here/unbound-$h.conf" >"$work/$h/unbound.conf"
		bg $h unbound -d -c "$work/$h/unbound.conf"
		wait_port $h 53
	done
	printf 'nameserver 198.18.2.1\noptions timeout:2 attempts:3\n' >"$work/resolv.conf"
	start_wire -lose udp:53:3 -lose udp:5301:2 -lose udp:5302:2:unseen -lose udp:5303:100
	local i
	for i in 1 2 3; do # the C library asks for A and AAAA from one port, and again from it
		on client unshare -m sh -c "mount --bind $work/resolv.conf /etc/resolv.conf; getent ahosts www$i.example"
	done
	for i in 1 2 3 4 5; do
		on client dig @198.18.2.1 www$i.example A
		on client dig @198.18.2.1 -b 198.18.1.2 www$i.example AAAA
		on client dig @2001:db8:2::1 mail$i.example MX
		on client dig @198.18.2.2 missing$i.example
		on client kdig @198.18.2.1 +tcp www$i.example
		on client kdig @198.18.2.1 -b 198.18.1.3 large.example TXT     # cut short, then over TCP
		on client kdig @198.18.2.1 +tcp +keepopen a$i.example b$i.example c$i.example
		on client dig @198.18.2.1 -b 198.18.1.4#53 www$i.example # from port 53 to port 53
		on client dig @198.18.2.1 -b 198.18.1.4#4000$i www$i.example a.example b.example
	done
	for i in 1 2 3; do
		on client kdig @198.18.2.1 -p 5301 +retry=3 +time=1 www.example # two questions lost on the way
		on client kdig @198.18.2.1 -p 5302 +retry=3 +time=1 www.example
		on client dig @198.18.2.1 -p 5303 +retry=1 +time=1 www.example # never answered
		on client dig @198.19.3.1 -p 54 +tries=1 +time=1 www.example   # ICMP
		on client dig @198.19.3.4 -p 54 +tcp +tries=1 +time=1 www.example
	done
	for i in $(seq 40); do on client dig @198.18.2.3 +tries=1 +time=1 n$i.far.example; done # asked of the peer
}

theme_login() {
	start_sshd
	mkdir -p "$work/ftp"
	head -c 30000 /dev/zero >"$work/ftp/file"
	playbg server servers.py ftp "$work/ftp"
	playbg server servers.py smtp
	wait_port server 21
	wait_port server 25
	start_wire
	local opt; opt=$(ssh_options)
	on client ssh $opt root@198.18.2.1 sleep 95 & pids+=($!)                              # silent for 95 s
	on client ssh $opt -o ServerAliveInterval=10 root@198.18.2.2 sleep 95 & pids+=($!)    # a word every 10 s
	on client ssh $opt -o ServerAliveInterval=20 root@2001:db8:2::1 sleep 95 & pids+=($!) # every 20 s
	on client ssh $opt root@198.18.2.3 'for i in $(seq 18); do echo $i; sleep 5; done' & pids+=($!)
	local i
	for i in 1 2 3; do
		on client ssh $opt root@198.18.2.1 true
		on client scp $opt "$work/ftp/file" root@198.18.2.1:/dev/null
		on client scp $opt "root@[2001:db8:2::2]:$work/ftp/file" /dev/null
		on client ssh $opt -i /dev/null -o IdentitiesOnly=yes root@198.18.2.2 true # refused
		on client swaks --server 198.18.2.1 --from a@example --to b@example --helo client.example
		on peer swaks --server 2001:db8:2::1 --from c@example --to d@example --helo peer.example
		on client swaks --server 198.18.2.2 --quit-after RCPT --from a@example --to b@example --helo client.example
		on client curl -s -o /dev/null ftp://198.18.2.1/file      # passive
		on client curl -s -o /dev/null -P - ftp://198.18.2.1/file # active: the server opens the data connection
		on client curl -s -o /dev/null "ftp://[2001:db8:2::1]/file"
		on client curl -s -o /dev/null -P - "ftp://[2001:db8:2::1]/"
		on client curl -s -T "$work/ftp/file" -P 198.18.1.2 --interface 198.18.1.2 ftp://198.18.2.2/up$i # refused
		on client timeout 20 lftp -e 'set ftp:ssl-allow no; set ftp:passive-mode no; ls; get -o /dev/null file; ls; bye' 198.18.2.3
		sleep 5
	done
	sleep 75
}

theme_p2p() {
	local h
	mkdir -p "$work"/torrent-{client,server,peer}
	head -c 300000 /dev/urandom >"$work/torrent-server/data"
	"$python" "$here/p2p.py" torrent "$work/torrent-server/data" http://198.19.3.4:6969/announce "$work/data.torrent"
	playbg peer p2p.py tracker 6969
	wait_port peer 6969
	start_wire
	for h in "${hosts[@]}"; do playbg "$h" p2p.py listen; done
	for h in server client peer; do
		bg $h aria2c --no-conf --quiet --dir="$work/torrent-$h" --check-integrity=true --seed-ratio=0 --listen-port=51413 \
			--dht-listen-port=51414 --enable-dht=true --dht-file-path="$work/dht-$h" --dht-file-path6="$work/dht6-$h" \
			--dht-entry-point=198.19.3.1:51414 --max-overall-upload-limit=40K --disable-ipv6=true "$work/data.torrent"
		sleep 3
	done
	for h in "${hosts[@]}"; do play "$h" p2p.py talk "$h" & pids+=($!); done
	play client p2p.py together 198.18.1.1 198.18.2.1 & pids+=($!) # both ends open at once
	play server p2p.py together 198.18.2.1 198.18.1.1
	sleep 70
}

theme_scans() {
	start_nginx
	start_sshd
	ip netns exec "tr-$theme-server" iptables -A INPUT -p tcp --dport 100:200 -j DROP
	start_wire
	on client nmap -n -Pn -sS -F --max-retries 1 198.18.2.1
	on client nmap -n -Pn -sT -p 20-25,75-85,110-115,440-445,8080 --max-retries 1 198.18.2.2
	on client nmap -n -Pn -sU -p 53,67,123,161,500,1900,5353,33434 --max-retries 1 198.18.2.1
	on client nmap -n -Pn -sF -p 21,22,80,443,8080 --max-retries 1 198.18.2.3
	on client nmap -n -Pn -sA -p 21,22,80,443,8080 --max-retries 1 198.18.2.3
	on client nmap -n -Pn -sX -p 21,22,80 --max-retries 1 198.18.2.4
	on client nmap -n -Pn -sS -g 53 -p 21,22,80,150,443 --max-retries 1 198.18.2.4
	on client nmap -n -Pn -6 -sS -p 20-25,80,443 --max-retries 1 2001:db8:2::1
	on peer nmap -n -Pn -sV -p 22,80,443 198.18.2.1
	on peer nmap -n -sn -PE -PS80 198.18.2.1-4
	on peer nmap -n -Pn -sS -p 22,80 --scan-delay 500ms --max-retries 1 198.18.1.1-4 198.18.2.1-4
}

theme_resets() {
	start_nginx
	start_wire -lose synack:7011:1 -lose synack:7012:1:unseen -lose synack:7013:9 -lose synack:7014:9:unseen \
		-lose syn:7015:1 -lose syn:7016:1:unseen -lose fin:7017:1 -lose rst:7018:1 -lose data:7019:2 -lose data:7020:2:unseen \
		-lose synack:7021:4:unseen
	playbg server tcp.py serve 7000-7030
	wait_port server 7030
	ip netns exec "tr-$theme-server" iptables -A INPUT -p tcp --dport 7100 -j DROP
	ip -n "tr-$theme-client" neigh add 198.18.2.99 lladdr 02:00:00:00:00:99 dev wire0 # nobody
	playbg client tcp.py forge 7021 # injects RSTs: see there
	sleep 2
	local a i
	for a in 198.18.2.1 2001:db8:2::2; do
		for i in $(seq 5); do
			play client tcp.py ask $a 7001
			play client tcp.py ask $a 7002 --end reset
			play client tcp.py ask $a 7003 --order close-first
			play client tcp.py ask $a 7004 --order reset-first
			play client tcp.py ask $a 7005 --end half
			play client tcp.py ask $a 7006 --order reset-middle
			play client tcp.py ask $a 7007 --end reset-middle
			play client tcp.py ask $a 7008 --order close-first --end late
			play client tcp.py ask $a 7099 # refused
			play client tcp.py ask $a 7021
		done
		for i in 11 12 15 16 17 18 19 20; do play client tcp.py ask $a 70$i --end reset; play client tcp.py ask $a 70$i; done
		on client timeout 4 ncat -w 3 $a 7013
		on client timeout 4 ncat -w 3 $a 7014
		on client timeout 4 ncat -w 3 $a 7100
	done
	on client timeout 8 ncat -w 7 198.18.2.99 80
	on client curl -s http://198.18.2.1:81/
	on client timeout -s KILL 1 curl -s http://198.18.2.1:8080/slow
	sleep 12
}

theme_reuse() {
	start_wire
	playbg server tcp.py serve 7000-7003
	playbg server udp.py serve 7000
	wait_port server 7003
	local pause port
	for pause in 0.05 0.5 3 12 20 65; do # the same 5-tuple again after this pause
		play client tcp.py again 198.18.2.1 7001 $pause --order close-first & pids+=($!)
		play client tcp.py again 198.18.2.2 7001 $pause --end reset & pids+=($!)
		play client tcp.py again 198.18.2.3 7001 $pause --order reset-first & pids+=($!)
		play client tcp.py again 2001:db8:2::1 7001 $pause --order close-first & pids+=($!)
		play client tcp.py again 198.18.2.4 7009 $pause & pids+=($!) # refused every time
		play client udp.py ask 198.18.2.1 7000 --pause $pause --times 3 & pids+=($!)
		play client udp.py ask 2001:db8:2::1 7000 --pause $pause --times 3 & pids+=($!)
		sleep 1
	done
	sleep 215
}

theme_pauses() {
	start_wire
	playbg server tcp.py serve 80,443,7000-7002
	playbg server udp.py serve 123 7000
	wait_port server 7002
	local pause
	for pause in 2 5 10 14 16 20 31 45 59 62 75 100 130; do
		play client tcp.py ask 198.18.2.1 80 --pause $pause & pids+=($!)
		play client tcp.py ask 198.18.2.1 443 --pause $pause --end reset & pids+=($!)
		play client tcp.py ask 2001:db8:2::1 7001 --pause $pause --order close-first & pids+=($!)
		play peer tcp.py ask 198.18.2.2 7002 --pause $pause --push & pids+=($!)
		play client udp.py ask 198.18.2.1 123 --pause $pause --times 2 & pids+=($!)
		play client udp.py ask 198.18.2.2 7000 --pause $pause --times 3 & pids+=($!)
		play peer udp.py ask 2001:db8:2::1 7000 --pause $pause --times 2 --push & pids+=($!)
	done
	play client tcp.py ask 198.18.2.1 80 --pause 305
	sleep 5
}

theme_midstream() {
	start_nginx
	start_sshd
	playbg server tcp.py serve 7000-7004
	playbg server udp.py serve 5004 7000
	wait_port server 7004
	start_wire -record-after 12s
	local opt i; opt=$(ssh_options)
	on client curl -s -o /dev/null --limit-rate 1500 http://198.18.2.1/large & pids+=($!)
	on client curl -sk -o /dev/null --limit-rate 1500 https://198.18.2.1/large & pids+=($!)
	on client curl -s -o /dev/null --limit-rate 3000 "http://[2001:db8:2::1]/large" & pids+=($!)
	on client curl -s -o /dev/null http://198.18.2.1:8080/slow & pids+=($!)
	on client ssh $opt root@198.18.2.1 'for i in $(seq 18); do echo $i; sleep 1; done' & pids+=($!)
	on client ssh $opt -o ServerAliveInterval=7 root@198.18.2.2 sleep 40 & pids+=($!)
	for i in 4 9 13 19 28 60; do
		play client tcp.py ask 198.18.2.1 7001 --pause $i & pids+=($!)
		play client tcp.py ask 198.18.2.2 7001 --pause $i --end reset & pids+=($!)
		play peer tcp.py ask 198.18.2.1 7002 --pause $i --push & pids+=($!)
		play peer tcp.py ask 198.18.2.3 7002 --pause $i --order close-first & pids+=($!)
		play client udp.py ask 198.18.2.1 5004 --pause $i --times 3 & pids+=($!)
		play client udp.py ask 198.18.2.1 7000 --pause $i --times 3 --push & pids+=($!)
	done
	for i in 10 11 11.5 12 12.5 13; do # near the beginning of the record
		(sleep $i; on client curl -s http://198.18.2.1/small http://198.18.2.1/large) & pids+=($!)
	done
	sleep 45 # and the record ends in the middle of others
}

theme_misc() {
	sed "s#@WORK@#$work#g" "$here/chrony.conf" >"$work/chrony.conf"
	bg server chronyd -d -x -f "$work/chrony.conf"
	playbg server udp.py serve 7000
	playbg server servers.py ssdp
	wait_port server 123
	wait_port server 7000
	mkdir -p "$work/run"
	start_wire
	local h
	for h in client server; do # its own /run, so that several daemons can run and none finds the machine's D-Bus
		sed "s#@HOST@#$h#g" "$here/avahi.conf" >"$work/avahi-$h.conf"
		bg $h unshare -m sh -c "mount -t tmpfs none /run && exec avahi-daemon --no-drop-root --no-rlimits --no-chroot -f $work/avahi-$h.conf"
	done
	on client ping -c 25 -i 2 198.18.2.1 & pids+=($!)
	on client ping -c 3 -i 0.3 198.18.2.2
	on client ping -c 3 -i 0.3 2001:db8:2::1
	on peer ping -c 3 -i 0.3 -s 4000 198.18.2.3      # fragments
	on peer ping -c 3 -i 0.3 -s 4000 2001:db8:2::3
	on client ping -c 2 -W 1 198.18.2.77             # nobody
	play client udp.py ask 198.18.2.1 7000 --octets 5000 --times 3
	play client udp.py ask 2001:db8:2::2 7000 --octets 3000 --times 2
	play client udp.py ask 198.18.2.1 7050           # ICMP port unreachable
	on client traceroute -n -q 1 -m 2 198.18.2.1
	on client traceroute -n -q 1 -m 2 -I 198.18.2.2
	on client traceroute -n -q 1 -m 2 -T -p 80 198.18.2.2
	for h in 198.18.2.1 198.18.2.2 2001:db8:2::1; do on client chronyd -Q -t 9 "server $h iburst" "cmdport 0" "pidfile $work/q.pid"; done
	for h in 1 2 3 4 5; do
		on client logger -n 198.18.2.1 -P 514 -d -t test "message $h"  # nobody listens: ICMP
		on peer logger -n 198.18.2.2 -P 123 -d -t test "message $h"    # read and not answered
		play client servers.py msearch
	done
	play client servers.py mdns
	sleep 25
}

main() {
	# One-way delays of the legs: a pair's is the sum of two.
	delays=tr-$theme-client:2ms,tr-$theme-server:4ms,tr-$theme-peer:9ms
	(cd "$root" && go build -o "$work/wire" ./test/traffic/wire)
	make_host client 02:00:00:00:00:01 198.18.1 2001:db8:1
	make_host server 02:00:00:00:00:02 198.18.2 2001:db8:2
	make_host peer 02:00:00:00:00:03 198.19.3 2001:db8:3
	"theme_$theme"
	kill $wire
	wait $wire
	wire=
	mkdir -p "$out"
	mv "$work/$theme.pcap" "$out/"
	[ -z "${LOGS:-}" ] || cp "$work/log" "$LOGS/$theme.log" # what the programs said
}
main; exit # on one line: the file may be edited while it runs
