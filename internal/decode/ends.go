package decode

// Elements for the ends of a flow in templates without source and destination addresses.

// cisco is Cisco's private enterprise number.
const cisco = 9

// Ends of Cisco AVC's connection records. The client is the host that opened the
// connection.
var (
	clientPair4 = [...]elementID{{cisco, 12236}, {cisco, 12237}} // IPv4 addresses of client and server
	clientPair6 = [...]elementID{{cisco, 12238}, {cisco, 12239}}
	clientPorts = [...]elementID{{cisco, 12240}, {cisco, 12241}}
)

// clientActions are the actions of these elements in a template whose source is the client.
// The client and its port become the source, as in the first packet of the connection.
var clientActions = map[elementID]action{
	clientPair4[0]: addr(aSrc4, 4), clientPair4[1]: addr(aDst4, 4),
	clientPair6[0]: addr(aSrc6, 16), clientPair6[1]: addr(aDst6, 16),
	clientPorts[0]: s(sSrcPort, 2), clientPorts[1]: s(sDstPort, 2),
}

// staAddress and staDirection are the elements from which Cisco's wireless controllers' flows get
// their ends: the client's address, and whether its packets enter (0) or leave (1) the network
// there.
var staAddress, staDirection = iana(366), iana(61)

// pairElements are IANA's elements of source and destination addresses.
var pairElements = [...]elementID{iana(8), iana(12), iana(27), iana(28)}

// findEnds gives elements that are otherwise raw the meaning of source and destination, in a
// template without IANA's addresses. usable holds the template's elements that have a meaning. It
// changes acts and second.
func (p *Plan) findEnds(usable map[elementID]bool, acts, second []action) {
	for _, id := range pairElements {
		if usable[id] {
			return
		}
	}
	if !p.findClient(usable, acts) {
		p.findStation(usable, second)
	}
}

// findClient makes the client of an AVC record its source and the server its destination. It
// requires both addresses of a family, and that counters, if any, are those of initiator and
// responder: other counters do not identify the end that sent the packets.
func (p *Plan) findClient(usable map[elementID]bool, acts []action) bool {
	has := p.clientElements()
	pair4, pair6 := has[clientPair4[0]] && has[clientPair4[1]], has[clientPair6[0]] && has[clientPair6[1]]
	counted := usable[iana(1)] || usable[iana(2)] || usable[iana(85)] || usable[iana(86)]
	if !pair4 && !pair6 || counted {
		return false
	}
	better := [...]elementID{iana(7), iana(11)} // of clientPorts
	for i, f := range p.template.Fields {
		id := idOf(p.version, f)
		a, ok := clientActions[id]
		switch {
		case !ok || !has[id] || !a.reads(f.Length) || acts[i].op != opElement: // ELEMENTS_FILE may have given it a field
			continue
		case a.op == opAddr && (a.width == 4 && !pair4 || a.width == 16 && !pair6),
			id == clientPorts[0] && usable[better[0]], id == clientPorts[1] && usable[better[1]]:
			continue
		}
		acts[i] = a
	}
	p.client = !usable[iana(239)]
	return true
}

// clientElements returns the elements of clientActions that the template has with a readable
// length.
func (p *Plan) clientElements() map[elementID]bool {
	has := map[elementID]bool{}
	for _, f := range p.template.Fields {
		id := idOf(p.version, f)
		if a, ok := clientActions[id]; ok && a.reads(f.Length) {
			has[id] = true
		}
	}
	return has
}

// reads reports whether an action of clientActions can read a field of this length. A template may
// repeat an element with other lengths, so the length of each field must be checked.
func (a action) reads(length uint16) bool {
	return length == a.width || a.op == opSlot && length > 0 && length <= 4
}

// findStation makes the wireless client an end of the flow: the source, or the destination if
// flowDirection is egress. The other end is unknown.
func (p *Plan) findStation(usable map[elementID]bool, second []action) {
	if !usable[staAddress] {
		return
	}
	for i, f := range p.template.Fields {
		switch id := idOf(p.version, f); {
		case id == staAddress && !p.station && f.Length == 4:
			second[i], p.station = addr(aSrc4, 4), true
		case id == staDirection && f.Length > 0 && f.Length <= 4:
			second[i] = s(sDirection, 1)
		}
	}
}

// egress is the value of flowDirection (IE 61) for an egress flow at the observation point.
const egress = 1

// unknownEnd is 0.0.0.0, v4-mapped. It stands for the peer of a wireless client that the controller does not report.
var unknownEnd = [16]byte{10: 0xff, 11: 0xff}

// stationEnds sets the ends of a flow that has only the wireless client's address.
func (r *record) stationEnds(o *outcome) {
	a := &r.addr[aSrc4]
	if unset(a) {
		o.src = address{}
		return
	}
	o.src, o.dst = address{octets: a}, address{octets: &unknownEnd}
	if r.hasSlot(sDirection) && r.v[sDirection] == egress {
		o.src, o.dst = o.dst, o.src
	}
}
