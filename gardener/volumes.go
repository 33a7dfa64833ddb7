package gardener

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"

	"code.cloudfoundry.org/commandrunner"
	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// RawRootFSScheme is the scheme of URIs that name a folder to be used as root
// file system as it is.
const RawRootFSScheme = "raw"

// ErrGraphDisabled means that there is no volume creator, so that only raw
// root file systems can be used.
var ErrGraphDisabled = errors.New("no image plugin configured")

var _ Volumizer = (*VolumeProvider)(nil)

// VolumeProvider is the Volumizer that says to a VolumeCreator what a
// container spec means.
type VolumeProvider struct {
	VolumeCreator VolumeCreator
	VolumeDestroyMetricsGC

	// ContainerRootUID and ContainerRootGID are the host's ids of root in
	// unprivileged containers.
	ContainerRootUID int
	ContainerRootGID int
}

// NewVolumeProvider returns a VolumeProvider. The command runner is there for
// the published signature; all work is done in this process.
func NewVolumeProvider(creator VolumeCreator, manager VolumeDestroyMetricsGC, _ commandrunner.CommandRunner, rootUID, rootGID int) *VolumeProvider {
	return &VolumeProvider{
		VolumeCreator:          creator,
		VolumeDestroyMetricsGC: manager,
		ContainerRootUID:       rootUID,
		ContainerRootGID:       rootGID,
	}
}

// Create makes the root file system that spec.Image.URI, or the older
// spec.RootFSPath, names; neither means the default.
func (v *VolumeProvider) Create(log lager.Logger, spec garden.ContainerSpec) (specs.Spec, error) {
	wanted, err := rootfsSpec(spec)
	if err != nil {
		return specs.Spec{}, err
	}
	base, err := v.VolumeCreator.Create(log.Session(VolumizerSession), spec.Handle, wanted)
	if errors.Is(err, ErrGraphDisabled) && wanted.RootFS.Scheme == RawRootFSScheme {
		return specs.Spec{Root: &specs.Root{Path: wanted.RootFS.Path}}, nil
	}
	return base, err
}

// Handles of all volumes, if the manager can tell.
func (v *VolumeProvider) Handles() ([]string, error) {
	if lister, ok := v.VolumeDestroyMetricsGC.(HandleLister); ok {
		return lister.Handles()
	}
	return nil, nil
}

func rootfsSpec(spec garden.ContainerSpec) (RootfsSpec, error) {
	uri := spec.Image.URI
	if uri == "" {
		uri = spec.RootFSPath
	} else if spec.RootFSPath != "" {
		//lint:ignore ST1005 clients match it
		return RootfsSpec{}, errors.New("Cannot provide both Image.URI and RootFSPath")
	}
	rootFS, err := parseURI(uri)
	if err != nil {
		return RootfsSpec{}, err
	}
	return RootfsSpec{
		RootFS:     rootFS,
		Username:   spec.Image.Username,
		Password:   spec.Image.Password,
		Namespaced: !spec.Privileged,
		QuotaSize:  int64(min(spec.Limits.Disk.ByteHard, math.MaxInt64)),
		QuotaScope: spec.Limits.Disk.Scope,
	}, nil
}

// parseURI keeps what may be a password out of its error.
func parseURI(uri string) (*url.URL, error) {
	parsed, err := url.Parse(uri)
	if err == nil {
		return parsed, nil
	}
	if strings.Contains(uri, "@") {
		return nil, errors.New("invalid image URI: it cannot be parsed, and is not shown since it may hold credentials")
	}
	reason := err
	if parse, ok := errors.AsType[*url.Error](err); ok {
		reason = parse.Err
	}
	return nil, fmt.Errorf("invalid image URI %q: %w", uri, reason)
}

var (
	_ VolumeCreator          = NoopVolumizer{}
	_ VolumeDestroyMetricsGC = NoopVolumizer{}
)

// NoopVolumizer stands where no volume creator is configured: it can create
// nothing, so there is nothing to destroy or measure.
type NoopVolumizer struct{}

// Create answers ErrGraphDisabled.
func (NoopVolumizer) Create(lager.Logger, string, RootfsSpec) (specs.Spec, error) {
	return specs.Spec{}, ErrGraphDisabled
}

// Destroy does nothing.
func (NoopVolumizer) Destroy(lager.Logger, string) error { return nil }

// Metrics are all zero.
func (NoopVolumizer) Metrics(lager.Logger, string, bool) (garden.ContainerDiskStat, error) {
	return garden.ContainerDiskStat{}, nil
}

// GC does nothing.
func (NoopVolumizer) GC(lager.Logger) error { return nil }

// Capacity answers ErrGraphDisabled: it cannot be told.
func (NoopVolumizer) Capacity(lager.Logger) (uint64, error) { return 0, ErrGraphDisabled }
