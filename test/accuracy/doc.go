package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weir/test/accuracy/programs"
	"weir/test/accuracy/truth"
)

// folderName returns the name of a folder in a document: its last two elements.
func folderName(folder string) string {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return filepath.Base(folder)
	}
	return filepath.Base(filepath.Dir(folder)) + "/" + filepath.Base(folder)
}

// writeSection puts text between the markers of name in a document. It returns
// false when the document has none.
func writeSection(path, name, text string) (bool, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	out, ok := replaceSection(string(doc), name, text)
	if !ok {
		return false, nil
	}
	return true, os.WriteFile(path, []byte(out), 0o644)
}

// replaceSection puts text between the markers of name.
func replaceSection(doc, name, text string) (string, bool) {
	begin := "<!-- accuracy, " + name + ": written by make accuracy -->\n"
	end := "<!-- accuracy, " + name + ": end -->"
	head, rest, ok := strings.Cut(doc, begin)
	_, tail, ended := strings.Cut(rest, end)
	return head + begin + "\n" + text + "\n" + end + tail, ok && ended
}

// provenance returns the commit, the captures and the programs of a measurement, as text.
func provenance(ctx context.Context, captures []*capture, chosen []setting) string {
	tcp, udp := 0, 0
	for _, c := range captures {
		for _, v := range c.conversations {
			if v.Proto == truth.TCP {
				tcp++
			} else {
				udp++
			}
		}
	}
	commit, _ := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	versions := []string{"tshark " + programs.Version(ctx, "tshark", "--version")}
	for _, p := range [][2]string{{"softflowd", "-h"}, {"pmacctd", "-V"}, {"nfpcapd", "-V"}} {
		used := slices.ContainsFunc(chosen, func(s setting) bool { return slices.Contains(s.needs, p[0]) })
		if used {
			versions = append(versions, p[0]+" "+programs.Version(ctx, p[0], p[1]))
		}
	}
	return fmt.Sprintf("Commit %s, %s: %d captures, %d TCP and %d UDP conversations; %s.\n",
		bytes.TrimSpace(commit), time.Now().UTC().Format(time.DateOnly), len(captures), tcp, udp, strings.Join(versions, ", "))
}
