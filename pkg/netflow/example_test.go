package netflow_test

import (
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"weir/pkg/netflow"
)

// Two datagrams of a router: the template, and 24 flows.
var (
	template = read("v9_template.hex")
	data     = read("v9_data.hex")
)

// Parse parses a datagram that needs no template, such as NetFlow v5.
func Example() {
	p := netflow.NewParser(nil)
	packet, err := p.ParseHex(read("v5_30.hex"), netip.AddrPort{}, time.Time{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("version %d, %d flows\n", packet.Version, len(packet.Flows))
	f := packet.Flows[0]
	src, _ := netip.AddrFromSlice(f.GetSrcAddr())
	dst, _ := netip.AddrFromSlice(f.GetDstAddr())
	fmt.Printf("%v:%d to %v:%d, protocol %d: %d octets in %d packets\n", src, f.GetSrcPort(), dst, f.GetDstPort(), f.GetProto(), f.GetBytes(), f.GetPackets())
	// Output:
	// version 5, 30 flows
	// 10.100.204.121:9813 to 192.168.76.136:443, protocol 6: 910744 octets in 6939 packets
}

// The records of NetFlow v9 and IPFIX are described by templates. A Parser stores them by exporter, so each
// call must name the exporter of the datagram.
func ExampleParser_Parse() {
	router := netip.MustParseAddrPort("192.0.2.1:40000")
	p := netflow.NewParser(nil)
	for _, text := range []string{template, data} {
		packet, err := p.ParseHex(text, router, time.Now())
		if err != nil {
			log.Fatal(err)
		}
		for _, t := range packet.Templates {
			fmt.Printf("template %d: %d fields, the first is %s\n", t.ID, len(t.Fields), t.Fields[0].Name)
		}
		for _, e := range packet.Errors {
			fmt.Println("left out:", e)
		}
		fmt.Println(len(packet.Flows), "flows")
	}
	// Output:
	// template 260: 20 fields, the first is octetDeltaCount
	// 0 flows
	// 24 flows
}

// Data may arrive before its template. The packet then contains the undecoded set, which can be decoded
// later.
func ExampleDataSet_Decode() {
	router := netip.MustParseAddrPort("192.0.2.1:40000")
	p := netflow.NewParser(nil)
	early, err := p.ParseHex(data, router, time.Now())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(early.Flows), "flows,", len(early.Undecoded), "set waits")
	if _, err := early.Undecoded[0].Decode(); errors.Is(err, netflow.ErrNoTemplate) {
		fmt.Println(err)
	}
	if _, err := p.ParseHex(template, router, time.Now()); err != nil {
		log.Fatal(err)
	}
	late, err := early.Undecoded[0].Decode()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(late.Flows), "flows")
	// Output:
	// 0 flows, 1 set waits
	// the template is not known yet
	// 24 flows
}

// A minimal collector.
func ExampleNewParser() {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		log.Fatal(err)
	}
	go export(conn.LocalAddr()) // a router

	p := netflow.NewParser(nil)
	buf := make([]byte, 65535)
	for range 2 { // a real collector loops for ever
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			log.Fatal(err)
		}
		packet, err := p.Parse(buf[:n], from, time.Now())
		if err != nil {
			log.Print(err)
			continue
		}
		fmt.Printf("version %d: %d flows\n", packet.Version, len(packet.Flows))
	}
	// Output:
	// version 9: 0 flows
	// version 9: 24 flows
}
