// Command gdn is Verger in one file: the Garden server and the command line
// for the people who use it.
//
// "gdn server" needs no flag. Every other command talks to a server over its
// socket, through the Garden API and nothing else, so it works against any
// Garden server. "gdn COMMAND --help" is the manual.
package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/jessevdk/go-flags"
)

// version is set by the linker.
var version = "dev"

type options struct {
	Version bool               `short:"v" long:"version" description:"Print the version and exit"`
	Config  func(string) error `long:"config" value-name:"FILE" description:"Read options from an ini file: a section per command, such as [server], with long option names as keys. The command line wins over it"`

	Server  serverCommand  `command:"server" description:"Serve the Garden API"`
	Run     runCommand     `command:"run" pass-after-non-option:"yes" description:"Create a container and run a command in it"`
	Create  createCommand  `command:"create" description:"Create a container and print its handle"`
	Exec    execCommand    `command:"exec" pass-after-non-option:"yes" description:"Run a command in a container"`
	Attach  attachCommand  `command:"attach" description:"Follow a process that already runs"`
	Ps      psCommand      `command:"ps" description:"List containers"`
	Inspect inspectCommand `command:"inspect" description:"Tell all about a container, as JSON"`
	Stop    stopCommand    `command:"stop" description:"End all processes of containers"`
	Rm      rmCommand      `command:"rm" description:"Destroy containers"`
}

// exitCode is an error that says nothing but what the program exits with.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// failure is an error of a command that promises a certain exit code.
type failure struct {
	err  error
	code int
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

func main() {
	os.Exit(gdn(os.Args[1:]))
}

// gdn runs one command line and returns the exit code.
func gdn(args []string) int {
	err := parse(args, func(c flags.Commander) error { return c.Execute(nil) })
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	fmt.Fprintln(os.Stderr, "gdn:", oneLine(err))
	if f, ok := errors.AsType[failure](err); ok {
		return f.code
	}
	return 1
}

// parse reads the command line and the ini file, and hands the command that
// they make to execute.
func parse(args []string, execute func(flags.Commander) error) error {
	var opts options
	parser := flags.NewParser(&opts, flags.HelpFlag|flags.PassDoubleDash)
	describe(parser)
	opts.Config = func(string) error { return nil } // read below
	if path := configPath(args); path != "" {
		if err := readConfig(parser, path); err != nil {
			return err
		}
	}
	executed := false
	parser.CommandHandler = func(command flags.Commander, rest []string) error {
		executed = true
		if len(rest) > 0 {
			return failure{fmt.Errorf("%q is one argument too many: see \"gdn %s --help\"", rest[0], parser.Active.Name), 1}
		}
		return execute(command)
	}
	_, err := parser.ParseArgs(args)
	problem, ok := errors.AsType[*flags.Error](err)
	switch {
	case executed || !ok:
		return err
	case problem.Type == flags.ErrHelp:
		fmt.Println(strings.TrimSpace(problem.Message))
		return nil
	case opts.Version && problem.Type == flags.ErrCommandRequired:
		fmt.Println("gdn", version)
		return nil
	}
	return usageError(parser, problem)
}

// configPath is the ini file that args name. It takes a parse of its own: the
// file comes first, so that the command line wins over it, lists included.
func configPath(args []string) (path string) {
	var opts options
	opts.Config = func(p string) error {
		path = p
		return nil
	}
	parser := flags.NewParser(&opts, flags.HelpFlag|flags.PassDoubleDash)
	parser.CommandHandler = func(flags.Commander, []string) error { return nil }
	_, _ = parser.ParseArgs(args) // what is wrong with them, the real parse reports
	return path
}

// noise is what go-flags says for programmers.
var noise = regexp.MustCompile(` \((expected|at least) [^()]*\)|strconv\.\w+: parsing `)

// usageError says what is wrong with the command line and where help is.
func usageError(parser *flags.Parser, problem *flags.Error) error {
	what, help, code := noise.ReplaceAllString(oneLine(problem), ""), "gdn --help", 1
	if parser.Active != nil {
		help = "gdn " + parser.Active.Name + " --help"
		if parser.Active.FindOptionByLongName("interactive") != nil {
			code = exitTrouble // the other codes are the process's
		}
	}
	switch problem.Type {
	case flags.ErrCommandRequired:
		what = "no command"
	case flags.ErrUnknownCommand:
		what, _, _ = strings.Cut(what, ".")
	}
	return failure{fmt.Errorf("%s: see %q", strings.ToLower(what[:1])+what[1:], help), code}
}

// readConfig takes the options that the ini file at path sets.
func readConfig(parser *flags.Parser, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the config file: %w", err)
	}
	defer file.Close() // read only
	err = flags.NewIniParser(parser).Parse(file)
	if problem, ok := errors.AsType[*flags.IniError](err); ok {
		return fmt.Errorf("%s:%d: %s", path, problem.LineNumber, noise.ReplaceAllString(problem.Message, ""))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// oneLine is err's text without line breaks.
func oneLine(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "unknown error"
	}
	return strings.Join(lines, "; ")
}
