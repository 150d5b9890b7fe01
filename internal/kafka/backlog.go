package kafka

import "weir/internal/templates"

// maxTemplateBacklog is the default of TemplateLog.Backlog, octets.
const maxTemplateBacklog = 16 << 20

// A backlog holds the last record of each key of the templates topic, in the order of the topic: the result of
// compaction. Without a backlog a reader would pass through every definition that a key ever had, and decode data with
// those that were replaced long ago. records has empty places where a later record replaced an earlier one; compact
// removes them, at the latest when they outnumber the records. It must be used by one goroutine.
type backlog struct {
	records []templates.Record // no key: a later record replaced it
	at      map[string]int     // index in records, by key
	octets  int                // approximate heap
}

// backlogOctets returns the approximate heap of a record in a backlog.
func backlogOctets(rec *templates.Record) int { return 192 + 2*len(rec.Key) + len(rec.Value) }

// add adds a record and removes the earlier record with its key. The record must have a key. The backlog keeps the
// key and the value.
func (b *backlog) add(rec templates.Record) {
	if b.at == nil {
		b.at = map[string]int{}
	}
	if i, ok := b.at[string(rec.Key)]; ok {
		b.octets -= backlogOctets(&b.records[i])
		b.records[i] = templates.Record{}
	}
	b.at[string(rec.Key)] = len(b.records)
	b.records = append(b.records, rec)
	b.octets += backlogOctets(&rec)
	if len(b.records) > 2*len(b.at)+1024 {
		b.compact()
	}
}

// removeOldest removes records, the oldest first, until at most octets are left, and passes each to apply. A
// negative number removes all records.
func (b *backlog) removeOldest(octets int, apply func(key, value []byte)) {
	for i := range b.records {
		if b.octets <= octets {
			break
		}
		rec := b.records[i]
		if rec.Key == nil {
			continue
		}
		delete(b.at, string(rec.Key))
		b.octets -= backlogOctets(&rec)
		b.records[i] = templates.Record{}
		apply(rec.Key, rec.Value)
	}
	b.compact()
}

// compact removes the empty places of records.
func (b *backlog) compact() {
	kept := make([]templates.Record, 0, len(b.at))
	for _, rec := range b.records {
		if rec.Key != nil {
			b.at[string(rec.Key)] = len(kept)
			kept = append(kept, rec)
		}
	}
	b.records = kept
}
