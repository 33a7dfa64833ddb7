package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/verger-garden/verger/internal/atomicfile"
)

//go:embed all:assets
var embedded embed.FS

// assets are the files that gdn carries and a server needs on disk.
var assets = []struct {
	name string
	mode os.FileMode
}{
	{initAsset, 0o755},
	{rootfsAsset, 0o644},
}

const (
	initAsset   = "gdn-init"
	rootfsAsset = "rootfs.tar"
)

// carries tells whether this build has the asset inside.
func carries(name string) bool {
	_, err := fs.Stat(embedded, "assets/"+name)
	return err == nil
}

// unpackAssets writes the assets that this build carries into dir. A file
// that is already there with the same content stays, another is replaced; who
// runs the old one goes on with it.
func unpackAssets(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, asset := range assets {
		content, err := embedded.ReadFile("assets/" + asset.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := install(filepath.Join(dir, asset.name), content, asset.mode); err != nil {
			return fmt.Errorf("unpack %s: %w", asset.name, err)
		}
	}
	return nil
}

// install makes path a file of that content and mode that only root can change.
func install(path string, content []byte, mode os.FileMode) error {
	same, err := holds(path, content, mode)
	if err != nil || same {
		return err
	}
	return atomicfile.Write(path, content, mode)
}

// holds tells whether path is already what install would make of it.
func holds(path string, content []byte, mode os.FileMode) (bool, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close() // read only
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	if info.Mode() != mode || info.Size() != int64(len(content)) {
		return false, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return false, err
	}
	want := sha256.Sum256(content)
	return bytes.Equal(sum.Sum(nil), want[:]), nil
}
