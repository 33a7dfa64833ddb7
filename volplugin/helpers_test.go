package volplugin_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func link(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
}

// lie rewrites the layout's only image so that its config names another diff
// id than diffID, with all digests above it right.
func lie(path string, image v1.Image, diffID string) {
	GinkgoHelper()
	config, err := image.RawConfigFile()
	Expect(err).NotTo(HaveOccurred())
	old, err := image.ConfigName()
	Expect(err).NotTo(HaveOccurred())
	config = bytes.ReplaceAll(config, []byte(diffID), []byte(strings.Repeat("0", 64)))
	newConfig := putBlob(path, config)

	manifest, err := image.RawManifest()
	Expect(err).NotTo(HaveOccurred())
	manifest = bytes.ReplaceAll(manifest, []byte(old.Hex), []byte(newConfig))
	newManifest := putBlob(path, manifest)

	var index v1.IndexManifest
	Expect(json.Unmarshal([]byte(read(path, "index.json")), &index)).To(Succeed())
	index.Manifests[0].Digest.Hex = newManifest
	raw, err := json.Marshal(index)
	Expect(err).NotTo(HaveOccurred())
	write(filepath.Join(path, "index.json"), raw)
}

func putBlob(path string, content []byte) (digest string) {
	GinkgoHelper()
	sum := sha256.Sum256(content)
	digest = hex.EncodeToString(sum[:])
	Expect(os.WriteFile(filepath.Join(path, "blobs", "sha256", digest), content, 0o644)).To(Succeed())
	return digest
}
