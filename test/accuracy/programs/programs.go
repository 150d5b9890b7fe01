// Package programs has captures metered and exported by softflowd, pmacctd, and
// nfpcapd with nfreplay, over loopback.
package programs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/test/accuracy/export"
)

// A Run has a capture exported to the UDP port of 127.0.0.1. dir is an empty
// directory for what the program writes.
type Run func(ctx context.Context, capture, dir string, port int) error

// Export returns what run sends for the capture, by export time.
func Export(ctx context.Context, capture string, run Run) ([]export.Datagram, error) {
	dir, err := os.MkdirTemp("", "accuracy")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	capture, err = filepath.Abs(capture)
	if err != nil {
		return nil, err
	}
	return receive(func(port int) error { return run(ctx, capture, dir, port) })
}

// lastWords is the datagram after which nothing of the exporter comes: datagrams
// over loopback keep their order.
var lastWords = []byte("end of export")

// receive returns the datagrams that send sends to a port of 127.0.0.1.
func receive(send func(port int) error) ([]export.Datagram, error) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	defer func() { _ = socket.Close() }()
	if err := socket.SetReadBuffer(16 << 20); err != nil {
		return nil, err
	}
	var received []export.Datagram
	done := make(chan error, 1)
	go func() {
		buffer := make([]byte, 65535)
		for {
			n, err := socket.Read(buffer)
			if err != nil || bytes.Equal(buffer[:n], lastWords) {
				done <- err
				return
			}
			payload := bytes.Clone(buffer[:n])
			received = append(received, export.Datagram{Time: export.HeaderTime(payload), Payload: payload})
		}
	}()
	err = send(socket.LocalAddr().(*net.UDPAddr).Port)
	if err == nil {
		err = sendLastWords(socket.LocalAddr())
	}
	if err != nil {
		_ = socket.Close()
	}
	return received, errors.Join(err, <-done)
}

func sendLastWords(to net.Addr) error {
	c, err := net.Dial("udp4", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(lastWords)
	return err
}

// timeLimit bounds one run of a program.
const timeLimit = time.Minute

// command runs a program to its end, and that of the processes that it starts.
func command(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, bytes.TrimSpace(out))
	}
	return nil
}

// Softflowd runs softflowd with args on the capture. It takes the capture's times
// for the clock.
func Softflowd(args ...string) Run {
	return func(ctx context.Context, capture, dir string, port int) error {
		own := []string{
			"-r", capture, "-n", fmt.Sprintf("127.0.0.1:%d", port), "-d", "-a",
			"-p", filepath.Join(dir, "pid"), "-c", "none",
		}
		return command(ctx, "softflowd", slices.Concat(own, args)...)
	}
}

// Pmacctd runs pmacctd with its plugin nfprobe of the NetFlow version.
func Pmacctd(version int) Run {
	return func(ctx context.Context, capture, dir string, port int) error {
		config := fmt.Sprintf(`daemonize: false
pcap_savefile: %s
aggregate: src_host,dst_host,src_port,dst_port,proto,tcpflags,tos
plugins: nfprobe
nfprobe_receiver: 127.0.0.1:%d
nfprobe_version: %d
plugin_buffer_size: 10240
plugin_pipe_size: 10240000
`, capture, port, version)
		file := filepath.Join(dir, "pmacctd.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		err := command(ctx, "pmacctd", "-f", file)
		if err != nil && pluginEnded(err.Error()) {
			return nil
		}
		return err
	}
}

// pluginEnded reports whether pmacctd failed because its plugin, which it terminated at
// the end of the capture, did so first, as it may on a busy machine. The plugin exports
// all flows before it ends.
func pluginEnded(output string) bool {
	_, rest, terminated := strings.Cut(output, "/nfprobe ): Shutting down on user request.")
	return terminated && strings.Contains(rest, "no more plugins active. Shutting down.")
}

// Nfdump meters with nfpcapd and exports with nfreplay in the NetFlow version.
// timeouts are nfpcapd's -e: active,inactive in seconds.
func Nfdump(version, timeouts string) Run {
	return func(ctx context.Context, capture, dir string, port int) error {
		err := command(ctx, "nfpcapd", "-r", capture, "-w", dir, "-e", timeouts, "-t", "86400")
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(dir, "nfcapd.[12]*"))
		if err != nil {
			return err
		}
		slices.Sort(files)
		for _, f := range files {
			err := command(ctx, "nfreplay", "-r", f, "-H", "127.0.0.1", "-p", strconv.Itoa(port), "-v", version)
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// version finds a version number in what a program prints about itself.
var version = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// Version returns the version of an installed program, "" when it is not installed.
func Version(ctx context.Context, name, flag string) string {
	if _, err := exec.LookPath(name); err != nil {
		return ""
	}
	out, _ := exec.CommandContext(ctx, name, flag).CombinedOutput() // some end with status 1
	if v := version.Find(out); v != nil {
		return string(v)
	}
	return "of unknown version"
}
