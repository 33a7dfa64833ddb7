package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"code.cloudfoundry.org/garden"
)

// mount is a --mount argument: SRC:DST, SRC:DST:ro or SRC:DST:rw.
type mount garden.BindMount

// UnmarshalFlag implements flags.Unmarshaler.
func (m *mount) UnmarshalFlag(value string) error {
	parts := strings.Split(value, ":")
	mode := garden.BindMountModeRW
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			mode = garden.BindMountModeRO
		case "rw":
		default:
			return fmt.Errorf("%q is neither ro nor rw", parts[2])
		}
		parts = parts[:2]
	}
	if len(parts) != 2 || parts[0] == "" {
		return fmt.Errorf("%q is not SRC:DST or SRC:DST:ro", value)
	}
	if !filepath.IsAbs(parts[1]) {
		return fmt.Errorf("%q in the container is not absolute", parts[1])
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return err
	}
	*m = mount{SrcPath: source, DstPath: parts[1], Mode: mode, Origin: garden.BindMountOriginHost}
	return nil
}

// size is an amount of memory: bytes, or a number with k, m or g.
type size uint64

// UnmarshalFlag implements flags.Unmarshaler.
func (s *size) UnmarshalFlag(value string) error {
	number, unit := value, uint64(1)
	for suffix, factor := range map[string]uint64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30} {
		if rest, ok := strings.CutSuffix(strings.ToLower(value), suffix); ok {
			number, unit = rest, factor
		}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is not a size such as 64m", value)
	}
	*s = size(n * unit)
	return nil
}

// property is a --property argument: NAME=VALUE.
type property struct{ name, value string }

// UnmarshalFlag implements flags.Unmarshaler.
func (p *property) UnmarshalFlag(value string) error {
	name, rest, ok := strings.Cut(value, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q is not NAME=VALUE", value)
	}
	*p = property{name, rest}
	return nil
}

// variable is an --env argument: NAME=VALUE.
type variable string

// UnmarshalFlag implements flags.Unmarshaler.
func (v *variable) UnmarshalFlag(value string) error {
	if name, _, ok := strings.Cut(value, "="); !ok || name == "" {
		return fmt.Errorf("%q is not NAME=VALUE", value)
	}
	*v = variable(value)
	return nil
}
