package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
)

// patience is how long a restore waits for the lock that all iptables
// programs share; a program that answers later than deadline is ended.
const (
	patience = "--wait=30"
	deadline = time.Minute
)

// A family is iptables for one address family: rules are read through the
// program iptables and written, whole, through iptables-restore.
type family struct {
	rules   *goiptables.IPTables
	restore string
}

// newFamily finds the two programs and makes sure that they are what they are
// called, and that both write to the same place: iptables over nf_tables and
// the legacy one do not see each other's rules.
func newFamily(protocol goiptables.Protocol, iptables, restore string) (*family, error) {
	var variants []string
	for _, program := range []*string{&iptables, &restore} {
		path, err := find(*program)
		if err != nil {
			return nil, err
		}
		*program = path
		variant, err := variantOf(path, protocol)
		if err != nil {
			return nil, err
		}
		variants = append(variants, variant)
	}
	if variants[0] != variants[1] {
		return nil, fmt.Errorf("%s (%s) and %s (%s) do not see each other's rules: name two of one kind", iptables, variants[0], restore, variants[1])
	}
	rules, err := goiptables.New(goiptables.IPFamily(protocol), goiptables.Path(iptables), goiptables.Timeout(30))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", iptables, err)
	}
	return &family{rules, restore}, nil
}

// find is exec.LookPath that also looks where administrators' programs are.
func find(program string) (string, error) {
	candidates := []string{program}
	if filepath.Base(program) == program {
		candidates = append(candidates, "/usr/sbin/"+program, "/sbin/"+program)
	}
	var first error
	for _, c := range candidates {
		path, err := exec.LookPath(c)
		if err == nil {
			return path, nil
		}
		first = cmp.Or(first, err)
	}
	if errors.Is(first, exec.ErrNotFound) || errors.Is(first, fs.ErrNotExist) {
		return "", fmt.Errorf("%s not found: install iptables, or name it with --iptables-bin and --iptables-restore-bin: %w", program, first)
	}
	return "", first
}

var version = regexp.MustCompile(`^(ip6?tables)\S* v[0-9]+\.[0-9]+\S*(?: \((\w+)\))?`)

// variantOf tells what kind of iptables a program is, by its own word.
func variantOf(program string, protocol goiptables.Protocol) (string, error) {
	called := "iptables"
	if protocol == goiptables.ProtocolIPv6 {
		called = "ip6tables"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	answer, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	m := version.FindStringSubmatch(answer)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s is not %s: it answers --version with %.80q: %w", program, called, answer, err)
	case m == nil || m[1] != called:
		return "", fmt.Errorf("%s is not %s: it answers --version with %.80q", program, called, answer)
	case m[2] == "":
		return "legacy", nil // before 1.8 there was only this one
	}
	return m[2], nil
}

// apply runs one iptables-restore. The kernel takes each table whole or not
// at all.
func (f *family) apply(input string) error {
	if input == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.restore, "--noflush", patience)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %.300s", filepath.Base(f.restore), err, strings.Join(strings.Fields(string(out)), " "))
	}
	return nil
}

// look tells which of the jumps and which chains with prefix stand in the
// kernel.
func (f *family) look(jumps []jump, prefix string) (Found, error) {
	found := Found{Chains: map[string][]string{}}
	for _, j := range jumps {
		if _, listed := found.Chains[j.table]; !listed {
			chains, err := f.rules.ListChains(j.table)
			if err != nil {
				return Found{}, fmt.Errorf("list chains of %s: %w", j.table, err)
			}
			found.Chains[j.table] = slices.DeleteFunc(chains, func(c string) bool { return !strings.HasPrefix(c, prefix) })
		}
		exists, err := f.exists(j, found.Chains[j.table])
		if err != nil {
			return Found{}, err
		}
		found.Jumps = append(found.Jumps, exists)
	}
	return found, nil
}

// exists asks only if the target stands: else iptables answers with an error.
func (f *family) exists(j jump, chains []string) (bool, error) {
	if j.target != "" && !slices.Contains(chains, j.target) {
		return false, nil
	}
	exists, err := f.rules.Exists(j.table, j.chain, j.spec...)
	if err != nil {
		return false, fmt.Errorf("look for %s in %s: %w", strings.Join(j.spec, " "), j.chain, err)
	}
	return exists, nil
}
