package main

import (
	"fmt"

	"code.cloudfoundry.org/garden"
)

// containerOptions describe a container to create.
type containerOptions struct {
	Handle     string     `long:"handle" value-name:"HANDLE" description:"The container's name (default: a random one)"`
	Rootfs     string     `long:"rootfs" value-name:"URI" description:"The image: a directory, file.tar or oci:///layout:tag, none of which changes; or raw:///dir, which is used and written to as it is (default: the server's)"`
	Privileged bool       `long:"privileged" description:"Give it the host's root: no user namespace, no system call filter. For code you trust"`
	Env        []variable `long:"env" short:"e" value-name:"NAME=VALUE" description:"Set a variable for all its processes. Can be given again"`
	Mounts     []mount    `long:"mount" value-name:"SRC:DST[:ro]" description:"Show a file or directory of the host in it. Can be given again"`
	Memory     size       `long:"memory" value-name:"SIZE" description:"Limit its memory, e.g. 64m"`
	Properties []property `long:"property" value-name:"NAME=VALUE" description:"Attach a property to it, for \"gdn ps\" to filter by. Can be given again"`
}

func (o containerOptions) spec() garden.ContainerSpec {
	s := garden.ContainerSpec{
		Handle:     o.Handle,
		Image:      garden.ImageRef{URI: o.Rootfs},
		Privileged: o.Privileged,
		Env:        texts(o.Env),
		Properties: propertyMap(o.Properties),
		Limits:     garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: uint64(o.Memory)}},
	}
	for _, m := range o.Mounts {
		s.BindMounts = append(s.BindMounts, garden.BindMount(m))
	}
	return s
}

func texts(variables []variable) []string {
	var out []string
	for _, v := range variables {
		out = append(out, string(v))
	}
	return out
}

func propertyMap(properties []property) garden.Properties {
	out := garden.Properties{}
	for _, p := range properties {
		out[p.name] = p.value
	}
	return out
}

type createCommand struct {
	clientOptions
	containerOptions
}

// Execute implements flags.Commander.
func (c *createCommand) Execute([]string) error {
	handle, err := c.connect().Create(c.spec())
	if err != nil {
		return c.explain(err)
	}
	fmt.Println(handle)
	return nil
}
