package volplugin

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
)

// What a rootfs URI names.
type sourceKind int

const (
	rawSource    sourceKind = iota // a folder, used as it is
	pathSource                     // a folder or a tar file, as a layer
	layoutSource                   // an image in an OCI layout
)

type source struct {
	kind sourceKind
	path string
	tag  string // of a layout's image
}

// parseSource decides what u names; an empty u stands for the default.
func parseSource(u *url.URL, defaultRootfs string) (source, error) {
	if u == nil || *u == (url.URL{}) {
		if defaultRootfs == "" {
			return source{}, errors.New("no rootfs given and no default: set --default-rootfs")
		}
		var err error
		if u, err = url.Parse(defaultRootfs); err != nil {
			return source{}, fmt.Errorf("default rootfs: %w", err)
		}
	}
	src, err := parseURL(u)
	if err != nil {
		return source{}, fmt.Errorf("rootfs %s: %w", u.Redacted(), err)
	}
	return src, nil
}

func parseURL(u *url.URL) (source, error) {
	p := u.Path
	if u.Fragment != "" {
		p += ":" + u.Fragment // as docker:// writes its tags
	}
	var src source
	switch u.Scheme {
	case "raw":
		src = source{kind: rawSource, path: p}
	case "":
		src = source{kind: pathSource, path: p}
	case "oci":
		dir, tag := splitTag(p)
		src = source{kind: layoutSource, path: dir, tag: tag}
	default:
		return source{}, fmt.Errorf("scheme %q is not supported: use a path, raw:///folder or oci:///layout[:tag]", u.Scheme)
	}
	if u.Opaque != "" || u.Host != "" || !path.IsAbs(src.path) {
		return source{}, errors.New("the path is not absolute")
	}
	src.path = path.Clean(src.path)
	return src, nil
}

// splitTag cuts the tag from the last element of an OCI layout's path.
func splitTag(p string) (dir, tag string) {
	if i := strings.LastIndexByte(p, ':'); i > strings.LastIndexByte(p, '/') {
		return p[:i], p[i+1:]
	}
	return p, ""
}
