package ingest

import (
	"errors"
	"fmt"
	"os"

	"weir/internal/templates/text"
)

// addStatic adds the templates of TEMPLATES_FILE to the store. Its error names every wrong line. Static
// templates are used only while no received definition of their ID is known. They are not published to the
// topic: each replica has its own file. It must be called before the first datagram.
func (r *Replica) addStatic() error {
	if r.c.TemplatesFile == "" {
		return nil
	}
	f, err := os.Open(r.c.TemplatesFile)
	if err != nil {
		return fmt.Errorf("TEMPLATES_FILE: %w", err)
	}
	defer func() { _ = f.Close() }()
	// Parse and the loop below collect the errors of all lines: the operator corrects the file at once, not
	// line by line.
	all, err := text.Parse(f)
	if err != nil {
		return fmt.Errorf("TEMPLATES_FILE %s:\n%w", r.c.TemplatesFile, err)
	}
	var errs []error
	for i := range all {
		e := &all[i]
		// A received template has an exporter by its source address; a line of the file must name it.
		if err := e.Owned(); err != nil {
			errs = append(errs, err)
			continue
		}
		// AddStatic compiles the layout and returns the error that a received template would have.
		if err := r.store.AddStatic(e.Exporter, e.Version, e.Domain, &e.Template); err != nil {
			errs = append(errs, fmt.Errorf("template %d of %s: %w", e.Template.ID, e.Exporter, err))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("TEMPLATES_FILE %s:\n%w", r.c.TemplatesFile, errors.Join(errs...))
	}
	r.log.Info("templates of the file are in force", "file", r.c.TemplatesFile, "templates", len(all))
	return nil
}
