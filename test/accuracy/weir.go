package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"weir/internal/cli"
	"weir/test/accuracy/export"
	"weir/test/accuracy/score"
	"weir/test/accuracy/truth"
)

// connectionLine is what is read of a line of weir connections --json.
type connectionLine struct {
	Protocol  uint8 `json:"protocol"`
	Initiator struct {
		Address netip.Addr `json:"address"`
		Port    uint16     `json:"port"`
	} `json:"initiator"`
	Responder struct {
		Address netip.Addr `json:"address"`
		Port    uint16     `json:"port"`
	} `json:"responder"`
	Forward struct {
		Packets uint64 `json:"packets"`
	} `json:"forward"`
	Reverse struct {
		Packets uint64 `json:"packets"`
	} `json:"reverse"`
	Start  int64  `json:"start_unix_ns,string"`
	End    int64  `json:"end_unix_ns,string"`
	Method string `json:"direction_method"`
	State  string `json:"conn_state"`
}

// weirConnections runs weir connections on the datagrams and returns its TCP and
// UDP connections.
func weirConnections(datagrams []export.Datagram) ([]score.Connection, error) {
	if len(datagrams) == 0 {
		return nil, nil
	}
	var stdout, stderr bytes.Buffer
	args := []string{"connections", "--json", "-n", "-p", "0", "-"}
	if code := cli.Main(args, bytes.NewReader(export.Pcap(datagrams)), &stdout, &stderr); code != 0 {
		return nil, fmt.Errorf("weir connections: status %d: %s", code, bytes.TrimSpace(stderr.Bytes()))
	}
	var out []score.Connection
	lines := json.NewDecoder(&stdout)
	for {
		var l connectionLine
		switch err := lines.Decode(&l); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("output of weir connections: %w", err)
		case l.Protocol != truth.TCP && l.Protocol != truth.UDP:
			continue
		}
		out = append(out, score.Connection{
			Proto:     l.Protocol,
			Initiator: netip.AddrPortFrom(l.Initiator.Address, l.Initiator.Port),
			Responder: netip.AddrPortFrom(l.Responder.Address, l.Responder.Port),
			Start:     l.Start,
			End:       l.End,
			Packets:   l.Forward.Packets + l.Reverse.Packets,
			Method:    strings.TrimPrefix(l.Method, "DIRECTION_METHOD_"),
			State:     strings.TrimPrefix(l.State, "CONN_STATE_"),
		})
	}
}
