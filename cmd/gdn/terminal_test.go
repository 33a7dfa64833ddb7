package main

import (
	"bytes"
	"io"
	"testing/iotest"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// chunks hands out one chunk per read.
type chunks [][]byte

func (c *chunks) Read(p []byte) (int, error) {
	if len(*c) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*c)[0])
	*c = (*c)[1:]
	return n, nil
}

var _ = Describe("standard input", func() {
	read := func(in io.Reader) (pieces []string) {
		r := &wholeRunes{from: in}
		for buf := make([]byte, 64); ; {
			n, err := r.Read(buf)
			if n > 0 {
				pieces = append(pieces, string(buf[:n]))
			}
			if err != nil {
				Expect(err).To(Equal(io.EOF))
				return pieces
			}
		}
	}

	DescribeTable("is handed on in whole characters",
		func(in [][]byte, expected ...string) {
			c := chunks(in)
			Expect(read(&c)).To(Equal(expected))
		},
		Entry("plain", [][]byte{[]byte("ab"), []byte("c")}, "ab", "c"),
		Entry("cut in two", [][]byte{{'a', 0xc3}, {0xa9, 'b'}}, "a", "éb"),
		Entry("cut in three", [][]byte{{0xe2}, {0x82}, {0xac}}, "€"),
		Entry("cut by the end", [][]byte{{'a', 0xe2, 0x82}}, "a", "\xe2\x82"),
		Entry("no text at all", [][]byte{{0xff, 0xfe, 0x80}}, "\xff\xfe\x80"),
	)

	It("loses nothing, however it comes", func() {
		text := bytes.Repeat([]byte("aé€😀"), 100)
		Expect(io.ReadAll(&wholeRunes{from: iotest.OneByteReader(bytes.NewReader(text))})).To(Equal(text))
	})
})

var _ = Describe("an outlet", func() {
	It("reports once that nobody reads, and swallows the rest", func() {
		broken := 0
		o := &outlet{to: failing{}, broken: func() { broken++ }}
		for range 3 {
			Expect(o.Write([]byte("text"))).To(Equal(4))
		}
		Expect(broken).To(Equal(1))
	})
})

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
