package main

import "encoding/hex"

// honestFields is the layout of ../../internal/decode/testdata/v9_template.hex: 20 fields,
// 56 octets, as routers send them.
var honestFields = []field{
	{id: 1, length: 4}, {id: 2, length: 4}, {id: 4, length: 1}, {id: 5, length: 1}, {id: 6, length: 1}, {id: 7, length: 2},
	{id: 8, length: 4}, {id: 9, length: 1}, {id: 10, length: 4}, {id: 11, length: 2}, {id: 12, length: 4}, {id: 13, length: 1},
	{id: 14, length: 4}, {id: 15, length: 4}, {id: 16, length: 4}, {id: 17, length: 4}, {id: 21, length: 4}, {id: 22, length: 4},
	{id: 48, length: 2}, {id: 61, length: 1},
}

// honestRecord is the first record of ../../internal/decode/testdata/v9_data.hex.
var honestRecord = must(hex.DecodeString("0048c2600000223506001bcc780af37ad4180000012b01bbc0a8b0a818000000510a0000fe0000ff2d0000fee900365c9900364c60000100"))

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// honest is an exporter of version 9 that sends its template, and then data.
func honest(records, datagrams int) *genome {
	head := message{source: 1, version: 9, domain: 1, repeat: 1, uptime: 3_600_000}
	template, data := head, head
	template.sets = []set{{kind: templateSet, id: 260, fields: honestFields, widen: 1, count: 1}}
	data.sets = []set{{kind: dataSet, id: 260, count: uint16(records), record: honestRecord}}
	data.repeat, data.sequence = uint16(datagrams), 1
	return &genome{messages: []message{template, data}}
}

// seeds returns small samples of the datagrams of exporters.
func seeds() []*genome {
	head := message{source: 1, version: 9, domain: 1, repeat: 1, uptime: 3_600_000}
	with := func(version uint8, stream bool, sets ...set) message {
		m := head
		m.version, m.stream, m.sets = version, stream, sets
		return m
	}
	ipfix := set{kind: templateSet, id: 261, fields: []field{
		{id: 8, length: 4}, {id: 12, length: 4}, {id: 4, length: 1}, {id: 7, length: 2}, {id: 11, length: 2}, {id: 1, length: 8},
		{id: 2, length: 8}, {id: 152, length: 8}, {id: 153, length: 8}}, widen: 1, count: 1}
	text := set{kind: templateSet, id: 262, fields: []field{{id: 27, length: 16}, {id: 28, length: 16}, {id: 82, length: variable}, {id: 1, length: 4}}, widen: 1, count: 1}
	name := set{kind: optionsSet, id: 263, scopes: 1, fields: []field{{id: 10, length: 4}, {id: 82, length: 16}}, widen: 1, count: 1}
	// Samplers and interfaces in a router's options data: RFC 3954 section 6.1, IE 48, 49, 50 and
	// 10, 82, 83.
	samplers := set{kind: optionsSet, id: 264, scopes: 1, fields: []field{{id: 1, length: 4}, {id: 48, length: 2}, {id: 49, length: 1}, {id: 50, length: 4}}, widen: 1, count: 1}
	interfaces := set{kind: optionsSet, id: 265, scopes: 1, fields: []field{{id: 1, length: 4}, {id: 10, length: 4}, {id: 82, length: 32}, {id: 83, length: 64}}, widen: 1, count: 1}
	return []*genome{
		honest(24, 2),
		{messages: []message{with(5, false, set{kind: rawSet, count: 30, fill: 10})}},
		{messages: []message{with(10, false, ipfix), with(10, false, set{kind: dataSet, id: 261, count: 10, fill: 1})}},
		{messages: []message{with(10, true, ipfix, set{kind: dataSet, id: 261, count: 10, fill: 1})}},
		{messages: []message{with(10, false, text, set{kind: dataSet, id: 262, count: 4, fill: 9})}},
		{messages: []message{with(9, false, name, set{kind: dataSet, id: 263, count: 3, fill: 'a', vary: 1})}},
		{messages: []message{with(9, false, samplers, set{kind: dataSet, id: 264, count: 3, fill: 1, vary: 1 << 1})}},
		{messages: []message{with(9, false, interfaces, set{kind: dataSet, id: 265, count: 3, fill: 'a', vary: 1 << 1})}},
	}
}
