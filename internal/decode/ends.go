package decode

// Elements that name the ends of a flow where source and destination are absent.

// cisco is Cisco's private enterprise number.
const cisco = 9

// The ends of Cisco AVC's connection records. The client is the host that opened the
// connection.
var (
	clientPair4 = [...]elementID{{cisco, 12236}, {cisco, 12237}} // IPv4 addresses of client and server
	clientPair6 = [...]elementID{{cisco, 12238}, {cisco, 12239}}
	clientPorts = [...]elementID{{cisco, 12240}, {cisco, 12241}}
)

// Actions of these elements in a template whose source is the client.
var clientActions = map[elementID]action{
	clientPair4[0]: addr(aSrc4, 4), clientPair4[1]: addr(aDst4, 4),
	clientPair6[0]: addr(aSrc6, 16), clientPair6[1]: addr(aDst6, 16),
	clientPorts[0]: s(sSrcPort, 2), clientPorts[1]: s(sDstPort, 2),
}

// staAddress and staDirection are the elements of Cisco's wireless controllers that
// make the ends of a flow: the client's address, and whether its packets enter (0) or
// leave (1) the network there.
var staAddress, staDirection = iana(366), iana(61)

// pairElements are the elements of IANA's that name source and destination.
var pairElements = [...]elementID{iana(8), iana(12), iana(27), iana(28)}

// findEnds gives elements that are raw otherwise the meaning of source and destination,
// in a template that has none of IANA's addresses. usable are its elements that have a
// meaning; acts and second are changed.
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

// findClient makes the client of an AVC record its source and the server its
// destination. It requires both addresses of a family, and that counters, if any, are
// those of initiator and responder: of others it is not known which end sent them.
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
		case !ok || !has[id] || acts[i].op != opElement: // ELEMENTS_FILE may have given it a field
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

// clientElements returns the elements of clientActions that the template has with a length that can be read.
func (p *Plan) clientElements() map[elementID]bool {
	has := map[elementID]bool{}
	for _, f := range p.template.Fields {
		id := idOf(p.version, f)
		if a, ok := clientActions[id]; ok && (f.Length == a.width || a.op == opSlot && f.Length > 0 && f.Length <= 4) {
			has[id] = true
		}
	}
	return has
}

// findStation makes the wireless client an end of the flow: the source, or the
// destination where flowDirection is egress. The other end is not known.
func (p *Plan) findStation(usable map[elementID]bool, second []action) {
	if !usable[staAddress] {
		return
	}
	for i, f := range p.template.Fields {
		switch id := idOf(p.version, f); {
		case id == staAddress && !p.station && f.Length == 4:
			second[i], p.station = addr(aSrc4, 4), true
		case id == staDirection && usable[staDirection]:
			second[i] = s(sDirection, 1)
		}
	}
}

// egress is flowDirection's value for what leaves at the observation point.
const egress = 1

// unknownEnd is the end of a wireless client's flow that the controller does not
// report: 0.0.0.0.
var unknownEnd = [16]byte{10: 0xff, 11: 0xff}

// stationEnds sets the ends of a flow that has the wireless client's address alone.
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
