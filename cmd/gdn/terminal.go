package main

import (
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"code.cloudfoundry.org/garden"
	"golang.org/x/term"
)

// rawTerminal makes the terminal on standard input pass every key on, and
// returns what undoes it. Where there is no terminal it does nothing.
func rawTerminal() (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return func() {}, nil
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal up: %w", err)
	}
	return func() { _ = term.Restore(fd, before) }, nil // the terminal is gone: nothing to restore
}

// windowSize is the size of the terminal that we print to or read from; nil
// if there is none.
func windowSize() *garden.WindowSize {
	for _, file := range []*os.File{os.Stdout, os.Stdin} {
		if columns, rows, err := term.GetSize(int(file.Fd())); err == nil {
			return &garden.WindowSize{Columns: uint16(columns), Rows: uint16(rows)}
		}
	}
	return nil
}

// wholeRunes reads text and never returns a part of a character, which the
// Garden protocol would garble.
type wholeRunes struct {
	from io.Reader
	rest []byte // the start of a character
}

func (r *wholeRunes) Read(p []byte) (int, error) {
	if len(p) < 2*utf8.UTFMax {
		return 0, io.ErrShortBuffer
	}
	for {
		n := copy(p, r.rest)
		r.rest = nil
		m, err := r.from.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
		whole := n - partial(p[:n])
		r.rest = append(r.rest, p[whole:n]...)
		if whole > 0 {
			return whole, nil
		}
	}
}

// partial is the length of the cut character at the end of p.
func partial(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		last := p[len(p)-n:]
		if utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}
