package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A sample holds each step's times.
type sample struct{ create, run, destroy, total []time.Duration }

func (s *sample) add(t steps) {
	s.create = append(s.create, t.create)
	s.run = append(s.run, t.run)
	s.destroy = append(s.destroy, t.destroy)
	s.total = append(s.total, t.create+t.run+t.destroy)
}

// percentile is the p-th percentile in milliseconds.
func percentile(d []time.Duration, p int) float64 {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Seconds() * 1000
}

type row struct{ cells []string }

type table struct {
	rows    []row
	figures []row
	misses  int
}

func (t *table) verdict(ok bool) string {
	if ok {
		return "met"
	}
	t.misses++
	return "MISSED"
}

// compare adds a row per step, with the budgets of DESIGN for the sequential ones.
func (t *table) compare(runtime, when string, ours, bare sample) {
	destroyBudget := map[string]float64{"runc": 20, "crun": 10}[runtime]
	sequential := when != "8 at once"
	for _, step := range []struct {
		name       string
		ours, bare []time.Duration
		budget     func(ours, bare float64) (string, bool)
	}{
		{"create | `run --detach`", ours.create, bare.create, func(o, b float64) (string, bool) {
			limit := 1.2*b + 5
			return fmt.Sprintf("<= 1.2 x + 5 ms = %.1f", limit), o <= limit
		}},
		{"run `/bin/true` | `exec`", ours.run, bare.run, func(o, _ float64) (string, bool) { return "<= 3 ms", o <= 3 }},
		{"destroy | `delete --force`", ours.destroy, bare.destroy, func(o, _ float64) (string, bool) {
			return fmt.Sprintf("<= %.0f ms", destroyBudget), o <= destroyBudget
		}},
		{"all three", ours.total, bare.total, nil},
	} {
		o, b := percentile(step.ours, 50), percentile(step.bare, 50)
		cells := []string{
			when, strings.ReplaceAll(step.name, " | ", " / "),
			fmt.Sprintf("%.1f", o), fmt.Sprintf("%.1f", percentile(step.ours, 95)),
			fmt.Sprintf("%.1f", b), fmt.Sprintf("%.1f", percentile(step.bare, 95)),
			fmt.Sprintf("%.2f", o/b), "",
		}
		if step.budget != nil && sequential {
			text, ok := step.budget(o, b)
			cells[7] = text + ": " + t.verdict(ok)
		}
		t.rows = append(t.rows, row{cells})
	}
}

func (t *table) figure(name, value, budget string, ok bool) {
	if budget != "" {
		budget += ": " + t.verdict(ok)
	}
	t.figures = append(t.figures, row{[]string{name, value, budget}})
}

// flat adds the ratio of each step beside live containers to the step alone.
func (t *table) flat(live int, alone, beside sample) {
	for _, step := range []struct {
		name string
		a, b []time.Duration
	}{{"create", alone.create, beside.create}, {"run", alone.run, beside.run}, {"destroy", alone.destroy, beside.destroy}} {
		a, b := percentile(step.a, 50), percentile(step.b, 50)
		t.figure(fmt.Sprintf("%s beside %d containers / beside one", step.name, live),
			fmt.Sprintf("%.1f / %.1f ms = %.2f", b, a, b/a), "<= 1.3", b/a <= 1.3)
	}
}

func (t *table) print(runtime string) {
	head := []string{"", "Verger / bare " + runtime, "p50 ms", "p95", "bare p50", "bare p95", "ratio", "budget"}
	write(head, t.rows)
}

func (t *table) printFigures() { write([]string{"figure", "value", "budget"}, t.figures) }

func write(head []string, rows []row) {
	fmt.Println("| " + strings.Join(head, " | ") + " |")
	fmt.Println(strings.Repeat("| --- ", len(head)) + "|")
	for _, r := range rows {
		fmt.Println("| " + strings.Join(r.cells, " | ") + " |")
	}
	fmt.Println()
}
