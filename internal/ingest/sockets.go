package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"weir/internal/transport"
)

// sockets returns the UDP sockets, nil before Run.
func (r *Replica) sockets() []*transport.Socket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.udp
}

// listening returns the local addresses as text: of UDP, and with the prefix "tcp " of TCP and TLS.
func (r *Replica) listening() (all []string) {
	for _, s := range r.sockets() {
		if at := s.Address.String(); !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	for _, a := range r.streams.Addresses() {
		all = append(all, "tcp "+a.String())
	}
	return all
}

// listen opens the UDP sockets of every address. After an error none is open.
// With port 0 the kernel chooses the port, which all sockets of the address share.
func (r *Replica) listen(ctx context.Context) (all []*transport.Socket, err error) {
	var errs []error
	for _, a := range r.c.Listen {
		sockets, err := transport.ListenUDP(ctx, a, r.c.Receivers, r.c.RcvBuf)
		if err != nil {
			errs = append(errs, fmt.Errorf("LISTEN_UDP %s: %w (is another collector listening there?)", a, err))
			continue
		}
		all = append(all, sockets...)
		s := sockets[0]
		r.ports[s.Address.Port()] = true
		if s.Buffer > 0 && s.Buffer < r.c.RcvBuf {
			r.log.Warn("the kernel grants a smaller receive buffer: raise net.core.rmem_max",
				"address", s.Address, "wanted", r.c.RcvBuf, "granted", s.Buffer)
		}
		r.log.Info("listening", "address", s.Address, "sockets", len(sockets), "receive_buffer", s.Buffer)
	}
	if len(errs) > 0 {
		transport.CloseSockets(all)
		return nil, errors.Join(errs...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.udp = all
	return all, nil
}
