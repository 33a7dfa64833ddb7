package main

import (
	"errors"
	"fmt"
)

// handlesArg is the argument of commands that take any number of containers.
type handlesArg struct {
	Args struct {
		Handles []string `positional-arg-name:"HANDLE" required:"1"`
	} `positional-args:"yes"`
}

// each does something to every container named, whatever becomes of the
// others, and prints the handles of those it was done to.
func (h handlesArg) each(do func(handle string) error) error {
	var problems []error
	for _, handle := range h.Args.Handles {
		if err := do(handle); err != nil {
			problems = append(problems, err)
			continue
		}
		fmt.Println(handle)
	}
	return errors.Join(problems...)
}

type stopCommand struct {
	clientOptions
	handlesArg
	Kill bool `long:"kill" description:"Do not wait: SIGKILL at once"`
}

// Execute implements flags.Commander.
func (c *stopCommand) Execute([]string) error {
	server := c.connect()
	return c.each(func(handle string) error { return c.explain(server.Stop(handle, c.Kill)) })
}

type rmCommand struct {
	clientOptions
	handlesArg
}

// Execute implements flags.Commander.
func (c *rmCommand) Execute([]string) error {
	server := c.connect()
	return c.each(func(handle string) error { return c.explain(server.Destroy(handle)) })
}
