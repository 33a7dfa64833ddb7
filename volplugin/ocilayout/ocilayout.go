// Package ocilayout reads images from OCI image layouts on disk.
//
// A layout is foreign input: whatever is read is bounded and compared with the
// digest and size by which it was named, so an Image is what its manifest's
// digest says or an error.
package ocilayout

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// refName annotates a manifest with its tag.
	refName = "org.opencontainers.image.ref.name"

	// maxDocument bounds an index, a manifest and a configuration.
	maxDocument = 4 << 20

	// maxLayers is what overlayfs can stack.
	maxLayers = 500

	// maxNesting bounds indexes in indexes.
	maxNesting = 4
)

// An Image is what a container needs of an OCI image.
type Image struct {
	// Env is the environment of the image's configuration, "KEY=value".
	Env []string

	// Layers, the lowest first.
	Layers []Layer
}

// A Layer is a blob of the layout.
type Layer struct {
	DiffID v1.Hash // of the uncompressed tar stream
	Digest v1.Hash // of the blob
	Size   int64   // of the blob
}

// A Layout is the folder of an OCI image layout.
type Layout string

// Find returns the manifest of the image with this tag that fits the host's
// processor. Without a tag it is "latest", or else the only image there is.
func (l Layout) Find(tag string) (v1.Descriptor, error) {
	raw, err := readFile(filepath.Join(string(l), "index.json"))
	if errors.Is(err, os.ErrNotExist) {
		if _, serr := os.Stat(string(l)); serr == nil {
			return v1.Descriptor{}, errors.New("no OCI image layout: index.json is missing")
		}
	}
	if err != nil {
		return v1.Descriptor{}, err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("index.json: %w", err)
	}
	desc, err := choose(index.Manifests, tag)
	if err != nil {
		return v1.Descriptor{}, err
	}
	for range maxNesting {
		if !desc.MediaType.IsIndex() {
			return desc, nil
		}
		if desc, err = l.descend(desc); err != nil {
			return v1.Descriptor{}, err
		}
	}
	return v1.Descriptor{}, errors.New("indexes are nested too deep")
}

// choose picks the one manifest that tag means.
func choose(all []v1.Descriptor, tag string) (v1.Descriptor, error) {
	tagged := func(t string) (found []v1.Descriptor) {
		for _, d := range all {
			if d.Annotations[refName] == t {
				found = append(found, d)
			}
		}
		return found
	}
	var found []v1.Descriptor
	if tag != "" {
		if found = tagged(tag); len(found) == 0 {
			return v1.Descriptor{}, fmt.Errorf("no image %q; there is %s", tag, tags(all))
		}
	} else if found = tagged("latest"); len(found) == 0 {
		found = all
	}
	fit := slices.DeleteFunc(slices.Clone(found), func(d v1.Descriptor) bool { return !fits(d.Platform) })
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1:
		return v1.Descriptor{}, fmt.Errorf("several images: name one of %s", tags(all))
	case len(found) > 0:
		return v1.Descriptor{}, errors.New("no image for linux/" + runtime.GOARCH)
	}
	return v1.Descriptor{}, errors.New("no image")
}

// tags lists the tags of a layout.
func tags(all []v1.Descriptor) string {
	var names []string
	for _, d := range all {
		if t := d.Annotations[refName]; t != "" && !slices.Contains(names, t) {
			names = append(names, t)
		}
	}
	if len(names) == 0 {
		return "no tag"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func fits(p *v1.Platform) bool {
	return p == nil || p.OS == "linux" && p.Architecture == runtime.GOARCH
}

// descend picks this host's manifest from an index blob.
func (l Layout) descend(desc v1.Descriptor) (v1.Descriptor, error) {
	raw, err := l.document(desc)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	for _, d := range index.Manifests {
		if d.Platform != nil && fits(d.Platform) {
			return d, nil
		}
	}
	for _, d := range index.Manifests {
		if fits(d.Platform) {
			return d, nil
		}
	}
	return v1.Descriptor{}, errors.New("no image for linux/" + runtime.GOARCH)
}

// Image reads the image of the manifest that Find returned.
func (l Layout) Image(desc v1.Descriptor) (Image, error) {
	raw, err := l.document(desc)
	if err != nil {
		return Image{}, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return Image{}, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	raw, err = l.document(manifest.Config)
	if err != nil {
		return Image{}, fmt.Errorf("config %s: %w", manifest.Config.Digest, err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return Image{}, fmt.Errorf("config %s: %w", manifest.Config.Digest, err)
	}
	ids := config.RootFS.DiffIDs
	switch {
	case len(ids) != len(manifest.Layers):
		return Image{}, fmt.Errorf("manifest %s has %d layers, its config %d", desc.Digest, len(manifest.Layers), len(ids))
	case len(ids) > maxLayers:
		return Image{}, fmt.Errorf("manifest %s has %d layers, more than %d", desc.Digest, len(ids), maxLayers)
	}
	image := Image{Env: config.Config.Env}
	for i, d := range manifest.Layers {
		if ids[i].Algorithm != "sha256" || d.Digest.Algorithm != "sha256" {
			return Image{}, fmt.Errorf("layer %s: digests other than sha256 are not supported", d.Digest)
		}
		image.Layers = append(image.Layers, Layer{DiffID: ids[i], Digest: d.Digest, Size: d.Size})
	}
	return image, nil
}

// Open opens the blob of a layer. Its digest is for the reader to compare.
func (l Layout) Open(layer Layer) (*os.File, error) {
	path := l.blob(layer.Digest)
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != layer.Size {
		err = fmt.Errorf("%s has %d bytes, the manifest says %d", path, info.Size(), layer.Size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (l Layout) blob(h v1.Hash) string {
	return filepath.Join(string(l), "blobs", h.Algorithm, h.Hex)
}

// document reads a small blob and makes sure that it is the one that desc means.
func (l Layout) document(desc v1.Descriptor) ([]byte, error) {
	if desc.Digest.Algorithm != "sha256" {
		return nil, errors.New("digests other than sha256 are not supported")
	}
	raw, err := readFile(l.blob(desc.Digest))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != desc.Digest.Hex {
		return nil, errors.New("content does not match the digest")
	}
	return raw, nil
}

func readFile(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxDocument)
	}
	return raw, err
}

// openRegular opens path unless it is a pipe, which might block, or a device.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return os.Open(path)
}
