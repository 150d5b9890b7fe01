// Command accuracy measures how true Weir's connections are. It reads captures of
// traffic, takes from tshark what their packets say, has the traffic exported by
// programs and by a reference exporter, and compares the connections that weir
// connections makes of each export with the packets.
//
//	go run ./test/accuracy [-only ref9,softflowd9] [-v] FOLDER...
//	go run ./test/accuracy -doc docs/connections.md testdata/traffic
//	go run ./test/accuracy -floors test/accuracy/floors.tsv testdata/traffic
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"weir/test/accuracy/score"
	"weir/test/accuracy/truth"
)

// options are those of the command line.
type options struct {
	only        []string // names of settings; none: all
	folders     []string
	verbose     bool
	workers     int
	doc         string // document whose tables are written, "" for none
	floors      string // file of floors, "" for none
	writeFloors bool
}

func main() {
	log.SetFlags(0)
	var o options
	only := flag.String("only", "", "comma-separated `names` of settings; list prints them")
	flag.BoolVar(&o.verbose, "v", false, "name every conversation that came out wrong, and why")
	flag.IntVar(&o.workers, "j", runtime.NumCPU(), "captures that are measured at a time")
	flag.StringVar(&o.doc, "doc", "", "write the tables of folders that `FILE` has a place for")
	flag.StringVar(&o.floors, "floors", "", "measure the settings of `FILE`, and fail when a figure is below its floor")
	flag.BoolVar(&o.writeFloors, "write-floors", false, "make the figures the floors of -floors")
	flag.Parse()
	if *only == "list" {
		for _, s := range settings() {
			fmt.Printf("%-20s %s %s %s 1:%d\n", s.name, s.exporter, s.form, s.timeouts, s.rate)
		}
		return
	}
	o.folders = flag.Args()
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	if err := run(context.Background(), o, os.Stdout); err != nil {
		log.Fatal("accuracy: ", err)
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PAIR_") {
			return fmt.Errorf("%s is set: the figures are those of the defaults; unset it", name)
		}
	}
	if _, err := exec.LookPath("tshark"); err != nil {
		if os.Getenv("CI") != "" {
			return errors.New("tshark is not installed (Debian: tshark)")
		}
		log.Print("SKIPPED: tshark is not installed (Debian: tshark): nothing was measured")
		return nil
	}
	if len(o.folders) == 0 {
		return errors.New("want folders of captures")
	}
	var floors []floor
	if o.floors != "" {
		var err error
		if floors, err = readFloors(o.floors); err != nil {
			return err
		}
		o.only = floorSettings(floors)
	}
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	var all []result
	for _, folder := range o.folders {
		results, err := measureFolder(ctx, folder, chosen, o, out)
		if err != nil {
			return err
		}
		all = append(all, results...)
	}
	switch {
	case o.floors == "":
		return nil
	case o.writeFloors:
		return writeFloors(o.floors, floors, all)
	default:
		return checkFloors(floors, all)
	}
}

// measureFolder measures the captures of a folder, and prints its tables. It writes
// them into the document, if that has a place for them.
func measureFolder(ctx context.Context, folder string, chosen []setting, o options, out io.Writer) ([]result, error) {
	files, err := captureFiles(folder)
	if err != nil {
		return nil, err
	}
	captures, err := readTruth(ctx, files, o.workers)
	if err != nil {
		return nil, err
	}
	var results []result
	for _, s := range chosen {
		r, err := measure(ctx, s, captures, o)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
		log.Printf("%s: %d TCP, %d UDP conversations", s.name, r.tallies.TCP.Conversations, r.tallies.UDP.Conversations)
	}
	name := folderName(folder)
	text := provenance(ctx, captures, chosen) + "\n" + tables(results)
	if _, err := fmt.Fprintf(out, "%s: %s\n", name, text); err != nil || o.doc == "" {
		return results, err
	}
	written, err := writeSection(o.doc, name, text)
	if err == nil && !written {
		log.Printf("%s has no place for the tables of %s", o.doc, name)
	}
	return results, err
}

// choose returns the settings with these names, those without their programs left out.
func choose(names []string) (chosen []setting, err error) {
	known := settings()
	for _, n := range names {
		if !slices.ContainsFunc(known, func(s setting) bool { return s.name == n }) {
			return nil, fmt.Errorf("no setting %q; -only list prints them", n)
		}
	}
	for _, s := range known {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		missing := slices.IndexFunc(s.needs, func(program string) bool {
			_, err := exec.LookPath(program)
			return err != nil
		})
		if missing >= 0 {
			log.Printf("SKIPPED: %s: %s is not installed", s.name, s.needs[missing])
			continue
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}

// captureFiles returns the captures below a folder; a name may also be a file.
func captureFiles(folder string) (files []string, err error) {
	extensions := []string{".pcap", ".pcapng", ".cap", ".trace"}
	err = filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains(extensions, filepath.Ext(path)) {
			files = append(files, path)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: no captures", folder)
	}
	return files, err
}

// forEach calls do for 0 to n-1, some of them at a time, and returns the first error.
func forEach(n, workers int, do func(i int) error) error {
	var group sync.WaitGroup
	next := make(chan int)
	errs := make([]error, n)
	for range max(1, workers) {
		group.Go(func() {
			for i := range next {
				errs[i] = do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	return errors.Join(errs...)
}

// readTruth reads the conversations of the captures. What tshark cannot read is
// named and left out.
func readTruth(ctx context.Context, files []string, workers int) ([]*capture, error) {
	all := make([]*capture, len(files))
	err := forEach(len(files), workers, func(i int) error {
		conversations, err := truth.Read(ctx, files[i])
		if err != nil {
			log.Printf("SKIPPED: %v", err)
			return nil
		}
		name := strings.TrimSuffix(filepath.Base(files[i]), filepath.Ext(files[i]))
		conversations = slices.DeleteFunc(conversations, withoutPorts)
		all[i] = &capture{name: name, file: files[i], conversations: conversations}
		return nil
	})
	return slices.DeleteFunc(all, func(c *capture) bool { return c == nil || len(c.conversations) == 0 }), err
}

// withoutPorts reports whether both ports of a conversation are 0: exporters and Weir report
// fragments with port 0, too.
func withoutPorts(c *truth.Conversation) bool { return c.A.Port() == 0 && c.B.Port() == 0 }

// A result has the figures of a setting over all captures.
type result struct {
	setting setting
	tallies score.Tallies
}

// measure exports all captures by a setting and compares Weir's connections.
func measure(ctx context.Context, s setting, captures []*capture, o options) (result, error) {
	r := result{setting: s}
	var mu sync.Mutex
	reports := make([]string, len(captures))
	err := forEach(len(captures), o.workers, func(i int) error {
		c := captures[i]
		datagrams, err := s.export(ctx, c)
		if err != nil {
			log.Printf("SKIPPED: %s of %s: %v", s.name, c.name, err)
			return nil
		}
		connections, err := weirConnections(datagrams)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", s.name, c.name, err)
		}
		exported, err := exportOf(datagrams, s.rate > 1)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", s.name, c.name, err)
		}
		knowable := func(m *score.Match) bool { return exported.Knowable(m, c.conversations) }
		matches, extra := score.MatchAll(s.exportable(c.conversations), connections)
		mu.Lock()
		defer mu.Unlock()
		r.tallies.Extra += len(extra)
		for j := range matches {
			r.tallies.Of(matches[j].Conversation.Proto).Add(&matches[j], knowable)
		}
		if o.verbose {
			reports[i] = report(s, c, matches, knowable)
		}
		return nil
	})
	for _, text := range reports {
		fmt.Print(text)
	}
	return r, err
}
