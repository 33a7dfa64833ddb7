// Package handle says which container handles are allowed: names that are
// safe as a file name, a cgroup, a host name's source and a rule's comment.
package handle

import (
	"fmt"
	"regexp"
)

var allowed = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}$`)

// Validate returns nil if h is 1 to 255 letters, digits, '.', '_' or '-' and
// does not start with '.'; otherwise an error that says so.
func Validate(h string) error {
	if allowed.MatchString(h) {
		return nil
	}
	shown := h
	if len(shown) > 64 {
		shown = shown[:64] + "..."
	}
	return fmt.Errorf("invalid handle %q: use 1 to 255 letters, digits, '.', '_' or '-', not starting with '.'", shown)
}
