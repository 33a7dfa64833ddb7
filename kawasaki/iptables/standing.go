package iptables

import (
	"slices"
	"strings"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

// standing tells whether the listed rules have the ways into our chains and
// those of the containers.
func standing(n firewall.Names, containers []firewall.Container, listed []string) bool {
	for _, j := range jumps4(n) {
		if !slices.Contains(listed, strings.Join(append([]string{"-A", j.chain}, j.spec...), " ")) {
			return false
		}
	}
	present := map[string]bool{}
	for _, rule := range listed {
		present[uncommented(rule)] = true
	}
	for _, c := range containers {
		for _, e := range entries(n, c) {
			if !present[uncommented(strings.Join(append([]string{"-A", e.chain}, e.spec...), " "))] {
				return false
			}
		}
	}
	return true
}

// uncommented cuts the comment, which iptables quotes as it likes.
func uncommented(rule string) string {
	before, comment, ok := strings.Cut(rule, " -m comment --comment ")
	if !ok {
		return rule
	}
	for _, target := range []string{" -j ", " -g "} {
		if i := strings.LastIndex(comment, target); i >= 0 {
			return before + comment[i:]
		}
	}
	return before
}
