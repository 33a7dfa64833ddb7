package firewall

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"regexp"
	"strings"
)

// Names are the names of all links and chains of the server with one tag.
//
// A link's name has at most 15 characters, so a bridge is w<tag>brdg-<address
// in hex>, and with a tag of two characters w<tag>brdg<address in hex>. The
// rules match the bridges of one server by the pattern up to the address. No
// such pattern matches the links of a server with another tag, since "brdg"
// stands at another place or after other characters, nor the host's own
// (wlan0, wg0). Identifiers have no 'g', so a veth's name cannot match either.
type Names struct{ tag string }

// IDLength is how long an identifier of a container is: the longest that fits
// into names of links and chains next to a tag of two characters.
const IDLength = 10

// IDAlphabet are the 32 characters that an identifier is made of.
const IDAlphabet = "0123456789abcdefhjkmnpqrstuvwxyz"

var tags = regexp.MustCompile(`^[A-Za-z0-9]{0,2}$`)

// NewNames returns the names for a tag of at most two letters or digits.
func NewNames(tag string) (Names, error) {
	if !tags.MatchString(tag) {
		return Names{}, errors.New("tag " + strings.ToValidUTF8(tag, "?") + ": use at most two letters or digits")
	}
	return Names{tag}, nil
}

// Bridge is the bridge of subnet.
func (n Names) Bridge(subnet netip.Prefix) string {
	return n.bridges() + hex.EncodeToString(subnet.Masked().Addr().AsSlice())
}

// Bridges is the pattern, as iptables writes it, that matches every bridge of
// this server and nothing else.
func (n Names) Bridges() string { return n.bridges() + "+" }

func (n Names) bridges() string {
	if len(n.tag) == 2 {
		return "w" + n.tag + "brdg"
	}
	return "w" + n.tag + "brdg-"
}

// HostLink is the host's end of a container's link.
func (n Names) HostLink(id string) string { return "w" + n.tag + id + "-0" }

// ContainerLink is the container's end of its link.
func (n Names) ContainerLink(id string) string { return "w" + n.tag + id + "-1" }

// Owns tells whether a link of that name on the host was made by a server
// with this tag.
func (n Names) Owns(link string) bool {
	if rest, ok := strings.CutPrefix(link, n.bridges()); ok {
		address, err := hex.DecodeString(rest)
		return err == nil && len(address) == 4
	}
	id, ok := strings.CutPrefix(strings.TrimSuffix(link, "-0"), "w"+n.tag)
	return ok && len(id) == IDLength && link == n.HostLink(id) && strings.Trim(id, IDAlphabet) == ""
}

// Prefix starts the name of every chain.
func (n Names) Prefix() string { return "w-" + n.tag + "-" }

// Instance is the chain of one container.
func (n Names) Instance(id string) string { return n.Prefix() + "instance-" + id }

// The chains that all containers share.
func (n Names) Input() string       { return n.Prefix() + "input" }
func (n Names) Host() string        { return n.Prefix() + "host" }
func (n Names) Forward() string     { return n.Prefix() + "forward" }
func (n Names) Default() string     { return n.Prefix() + "default" }
func (n Names) Postrouting() string { return n.Prefix() + "postrouting" }
