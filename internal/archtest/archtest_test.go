// Package archtest holds the house to its plan: who may import whom, that no
// shell is started, that every package explains itself, and that links in the
// documents lead somewhere. It has only tests.
package archtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestArch(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "The house")
}

const (
	module = "github.com/verger-garden/verger"
	root   = "../.."
)

// rooms are the folders of the house and what of our own each may import
// besides its own subfolders. The first that matches counts. "..." stands for
// a folder and all below it; "" is the root package.
var rooms = []struct {
	room string
	may  []string
}{
	{"gardener/spec", nil},
	{"rundmc/bundle", []string{"gardener/spec", "internal/..."}},     // a leaf without state
	{"kawasaki/firewall", []string{"gardener/spec", "internal/..."}}, // a leaf without state
	{"gardener/...", component},
	{"rundmc/...", component},
	{"kawasaki/...", component},
	{"volplugin/...", component},
	{"runtime/...", component},
	{"server/...", []string{"internal/..."}},
	{"properties/...", []string{"gardener/spec", "internal/..."}},
	{"sysinfo/...", []string{"gardener/spec", "internal/..."}},
	{"internal/bench", []string{"rundmc/keeper", "internal/..."}}, // a program: it measures parts
	{"internal/...", []string{"internal/..."}},                    // knows none of the others
	{"cmd/gdn", []string{"", "server/...", "internal/..."}},
	{"cmd/...", []string{"internal/..."}},
	{"", []string{"gardener/...", "rundmc/...", "kawasaki/...", "volplugin/...", "runtime/...", "properties/...", "sysinfo/...", "internal/..."}},
}

// component is what every component may import; none may import another.
var component = []string{"gardener/spec", "rundmc/bundle", "kawasaki/firewall", "internal/..."}

func matches(pattern, folder string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return folder == base || strings.HasPrefix(folder, base+"/")
	}
	return folder == pattern
}

// forbidden lists the imports of the package in folder that break the plan.
func forbidden(folder string, imports []string) []string {
	for _, r := range rooms {
		if !matches(r.room, folder) {
			continue
		}
		var out []string
		for _, imported := range imports {
			own := r.room != "" && matches(strings.TrimSuffix(r.room, "/...")+"/...", imported)
			allowed := slices.ContainsFunc(r.may, func(p string) bool { return matches(p, imported) })
			if !own && !allowed {
				out = append(out, fmt.Sprintf("%s imports %s", folder, imported))
			}
		}
		return out
	}
	return []string{folder + " is a folder that the plan does not know"}
}

// A pkg is what "go list" tells of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

// folder is the package's place in the house.
func folder(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

func list(patterns ...string) []pkg {
	GinkgoHelper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Doc,GoFiles,Imports,Deps,Module"}, patterns...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		Fail(string(failed.Stderr))
	}
	Expect(err).NotTo(HaveOccurred())
	var all []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		Expect(err).NotTo(HaveOccurred())
		if p.Module != nil && p.Module.Path == module {
			all = append(all, p)
		}
	}
}

var _ = Describe("imports", func() {
	DescribeTable("the plan",
		func(from, to string, allowed bool) {
			if allowed {
				Expect(forbidden(from, []string{to})).To(BeEmpty())
			} else {
				Expect(forbidden(from, []string{to})).To(HaveLen(1))
			}
		},
		Entry("a component knows its own folders", "kawasaki", "kawasaki/subnets", true),
		Entry("a component's folder knows the component's others", "kawasaki/subnets", "kawasaki/firewall", true),
		Entry("a component knows the shared types", "kawasaki", "gardener/spec", true),
		Entry("a component does not know gardener", "rundmc", "gardener", false),
		Entry("gardener does not know a component", "gardener", "rundmc", false),
		Entry("components do not know one another", "rundmc", "kawasaki", false),
		Entry("components share leaves", "runtime", "rundmc/bundle", true),
		Entry("a leaf stays a leaf", "rundmc/bundle", "rundmc", false),
		Entry("small tools know nobody", "internal/rootfs", "gardener/spec", false),
		Entry("the root knows all", "", "rundmc", true),
		Entry("nobody but the binary knows the root", "gardener", "", false),
		Entry("the binary knows the root", "cmd/gdn", "", true),
		Entry("the binary does not reach past the root", "cmd/gdn", "rundmc", false),
	)

	It("follow the plan in every package", func() {
		packages := list("./...")
		Expect(len(packages)).To(BeNumerically(">", 5))
		var broken []string
		for _, p := range packages {
			var ours []string
			for _, i := range p.Imports {
				if i == module || strings.HasPrefix(i, module+"/") {
					ours = append(ours, folder(i))
				}
			}
			broken = append(broken, forbidden(folder(p.ImportPath), ours)...)
		}
		Expect(broken).To(BeEmpty())
	})
})

var _ = Describe("shells", func() {
	It("are named by no product code that starts programs", func() {
		files := token.NewFileSet()
		var found []string
		for _, p := range list("-deps", "./cmd/gdn") {
			for _, name := range p.GoFiles {
				path := filepath.Join(p.Dir, name)
				file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
				Expect(err).NotTo(HaveOccurred())
				for _, at := range shells(file) {
					found = append(found, files.Position(at).String())
				}
			}
		}
		Expect(found).To(BeEmpty())
	})

	DescribeTable("are found",
		func(code string, expected int) {
			file, err := parser.ParseFile(token.NewFileSet(), "x.go", code, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(shells(file)).To(HaveLen(expected))
		},
		Entry("by name", `package x; import "os/exec"; var c = exec.Command("sh", "-c", "ls")`, 1),
		Entry("by path", `package x; import "os/exec"; var c = exec.Cmd{Path: "/bin/bash"}`, 1),
		Entry("but not where no program is started", `package x; var help = "sh"`, 0),
		Entry("and others are not", `package x; import "os/exec"; var c = exec.Command("iptables-restore")`, 0),
	)
})

// shells are the places in a file that starts programs where a shell is named.
func shells(file *ast.File) []token.Pos {
	starts := slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"os/exec"` })
	if !starts {
		return nil
	}
	var found []token.Pos
	ast.Inspect(file, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			text, err := strconv.Unquote(literal.Value)
			if err == nil && slices.Contains([]string{"sh", "bash", "dash", "ash"}, filepath.Base(text)) {
				found = append(found, literal.Pos())
			}
		}
		return true
	})
	return found
}

var _ = Describe("packages", func() {
	It("each say what they are for", func() {
		var silent []string
		for _, p := range list("./...") {
			if len(p.GoFiles) > 0 && p.Doc == "" {
				silent = append(silent, p.ImportPath)
			}
		}
		Expect(silent).To(BeEmpty())
	})
})

var _ = Describe("documents", func() {
	It("link to what exists", func() {
		var broken []string
		documents := documents()
		Expect(documents).NotTo(BeEmpty())
		for _, document := range documents {
			text, err := os.ReadFile(document)
			Expect(err).NotTo(HaveOccurred())
			for _, target := range links(string(text)) {
				if err := follow(document, target); err != nil {
					broken = append(broken, fmt.Sprintf("%s: %v", document, err))
				}
			}
		}
		Expect(broken).To(BeEmpty())
	})
})

func documents() []string {
	var out []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			out = append(out, path)
		}
		return nil
	})
	Expect(err).NotTo(HaveOccurred())
	return out
}

var (
	link  = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	fence = regexp.MustCompile("(?s)```.*?```")
)

// links are the targets inside this repository.
func links(text string) []string {
	var out []string
	for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		if !strings.Contains(m[1], "://") && !strings.HasPrefix(m[1], "mailto:") {
			out = append(out, m[1])
		}
	}
	return out
}

// follow returns an error unless target, seen from document, exists.
func follow(document, target string) error {
	path, anchor, _ := strings.Cut(target, "#")
	if path == "" {
		path = document
	} else {
		path = filepath.Join(filepath.Dir(document), path)
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	if anchor == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") && slug(strings.TrimLeft(line, "#")) == anchor {
			return nil
		}
	}
	return fmt.Errorf("%s has no heading #%s", path, anchor)
}

var notInSlug = regexp.MustCompile(`[^a-z0-9 _-]`)

// slug is the anchor that a heading gets on the usual sites.
func slug(heading string) string {
	return strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-")
}
