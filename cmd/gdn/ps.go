package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"code.cloudfoundry.org/garden"
)

// container is what "gdn ps --json" and "gdn inspect" print of one.
type container struct {
	Handle     string            `json:"handle"`
	State      string            `json:"state"`
	IP         string            `json:"ip,omitempty"`
	IPv6       string            `json:"ipv6,omitempty"`
	HostIP     string            `json:"host_ip,omitempty"`
	ExternalIP string            `json:"external_ip,omitempty"`
	Ports      []port            `json:"ports"`
	Processes  []string          `json:"processes"`
	Events     []string          `json:"events"`
	Properties garden.Properties `json:"properties"`
	Path       string            `json:"path,omitempty"`
	Error      string            `json:"error,omitempty"`
}

type port struct {
	Host      uint32 `json:"host"`
	Container uint32 `json:"container"`
}

func view(handle string, info garden.ContainerInfo) container {
	c := container{
		Handle: handle, State: info.State,
		IP: info.ContainerIP, IPv6: info.ContainerIPv6, HostIP: info.HostIP, ExternalIP: info.ExternalIP,
		Ports:     []port{},
		Processes: append([]string{}, info.ProcessIDs...), Events: append([]string{}, info.Events...),
		Properties: info.Properties, Path: info.ContainerPath,
	}
	for _, p := range info.MappedPorts {
		c.Ports = append(c.Ports, port{Host: p.HostPort, Container: p.ContainerPort})
	}
	return c
}

type psCommand struct {
	clientOptions
	Quiet      bool       `long:"quiet" short:"q" description:"Print handles only"`
	JSON       bool       `long:"json" description:"Print JSON"`
	Properties []property `long:"property" value-name:"NAME=VALUE" description:"Only containers with this property. Can be given again"`
}

// everyState is the filter that also finds containers whose creation or
// destruction has not come to its end.
var everyState = property{"garden.state", "all"}

// Execute implements flags.Commander.
func (c *psCommand) Execute([]string) error {
	server := c.connect()
	filter := propertyMap(append([]property{everyState}, c.Properties...))
	handles, err := server.List(filter)
	if err != nil {
		return c.explain(err)
	}
	slices.Sort(handles)
	if c.Quiet {
		for _, handle := range handles {
			fmt.Println(handle)
		}
		return nil
	}
	infos, err := server.BulkInfo(handles)
	if err != nil {
		return c.explain(err)
	}
	containers := []container{}
	for _, handle := range handles {
		entry := infos[handle]
		v := view(handle, entry.Info)
		if entry.Err != nil {
			if _, gone := errors.AsType[garden.ContainerNotFoundError](entry.Err.Err); gone {
				continue // destroyed since it was listed
			}
			v.State, v.Error = "unknown", entry.Err.Error()
		}
		containers = append(containers, v)
	}
	if c.JSON {
		return printJSON(containers)
	}
	return table(os.Stdout, containers)
}

func table(out io.Writer, containers []container) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HANDLE\tSTATE\tIP\tPROCESSES")
	for _, c := range containers {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Handle, dash(c.State), dash(c.IP), dash(strings.Join(c.Processes, " ")))
	}
	return w.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func printJSON(v any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

type inspectCommand struct {
	clientOptions
	Args struct {
		Handle string `positional-arg-name:"HANDLE"`
	} `positional-args:"yes" required:"yes"`
}

// Execute implements flags.Commander.
func (c *inspectCommand) Execute([]string) error {
	info, err := c.connect().Info(c.Args.Handle)
	if err != nil {
		return c.explain(err)
	}
	return printJSON(view(c.Args.Handle, info))
}
