// An init that tells what it may do, in /probe, one "name errno" a line, and
// then waits to be killed. "hostname" is followed by the name itself.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static FILE *out;

static void tell(const char *name, long r)
{
	fprintf(out, "%s %d\n", name, r < 0 ? errno : 0);
}

static long cloned(unsigned long flags)
{
	long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return pid;
}

static long opened(const char *path, int flags)
{
	int fd = open(path, flags);
	if (fd >= 0)
		close(fd);
	return fd;
}

#ifdef __x86_64__
// ia32 enters the kernel as a 32-bit program would.
static long ia32(long nr, long a, long b, long c)
{
	long r;
	asm volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	r = (int)r;
	if (r < 0) {
		errno = -r;
		return -1;
	}
	return r;
}
static unsigned int words[3];

static long x32(long nr, long a, long b, long c)
{
	return syscall(0x40000000 | nr, a, b, c);
}

// apart makes the call in a child, since whoever comes by this door may be
// killed, and answers as the child saw it; 255 if it was.
static long apart(long (*door)(long, long, long, long), long nr, long a, long b)
{
	int status;
	pid_t pid = fork();
	if (pid == 0)
		_exit(door(nr, a, b, 0) < 0 ? errno : 0);
	waitpid(pid, &status, 0);
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
	return errno ? -1 : 0;
}
#endif

int main(void)
{
	out = fopen("/probe.part", "w");
	if (!out)
		return 1;

	char name[65] = "";
	gethostname(name, sizeof name);
	fprintf(out, "hostname %s\n", name);

	tell("socket-unix", socket(AF_UNIX, SOCK_STREAM, 0));
	tell("socket-inet", socket(AF_INET, SOCK_STREAM, 0));
	tell("socket-inet6", socket(AF_INET6, SOCK_STREAM, 0));
	tell("socket-netlink", socket(AF_NETLINK, SOCK_RAW, 0));
	tell("socket-packet", socket(AF_PACKET, SOCK_RAW, 0));
	tell("socket-alg", socket(38, SOCK_SEQPACKET, 0));
	tell("socket-vsock", socket(40, SOCK_STREAM, 0));

	tell("clone", cloned(0));
	tell("clone-newuser", cloned(CLONE_NEWUSER));
	tell("clone-newns", cloned(CLONE_NEWNS));
	unsigned long args[8] = {[4] = SIGCHLD}; // struct clone_args: the exit signal
	long pid = syscall(SYS_clone3, args, sizeof args);
	if (pid == 0)
		_exit(0);
	tell("clone3", pid);
	tell("unshare", unshare(CLONE_NEWUTS));
	tell("setns", setns(open("/proc/self/ns/uts", O_RDONLY), 0));
	tell("mount", mount("none", "/tmp", "tmpfs", 0, ""));
	tell("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
	tell("bpf", syscall(SYS_bpf, 5, 0, 0));
	tell("keyctl", syscall(SYS_keyctl, 0, -3, 0));
	tell("io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
	tell("unknown", syscall(9999));

	tell("prlimit64", syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, NULL));
	int pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	tell("pidfd_open", pidfd);
	tell("pidfd_send_signal", syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0));
	tell("close_range", syscall(SYS_close_range, 900, 1000, 0));
	tell("faccessat2", syscall(SYS_faccessat2, AT_FDCWD, "/", R_OK, 0));
	char stx[256];
	tell("statx", syscall(SYS_statx, AT_FDCWD, "/", 0, 0x7ff, stx));
	errno = 0;
	tell("rseq", syscall(SYS_rseq, NULL, 1, 0, 0));
	tell("dumpable", prctl(PR_SET_DUMPABLE, 0));
	tell("chroot", chroot("/"));

	tell("read-kcore", opened("/proc/kcore", O_RDONLY));
	tell("write-sys", opened("/sys/kernel/uevent_seqnum", O_RDWR));
	tell("write-init", opened("/dev/.gdn-init", O_WRONLY));
	tell("open-null", opened("/dev/null", O_RDWR));
	tell("open-fuse", opened("/dev/fuse", O_RDWR));
	mknod("/dev/mem-probe", S_IFCHR | 0600, (1 << 8) | 1);
	tell("open-mem", opened("/dev/mem-probe", O_RDONLY));
	tell("bound-ro", opened("/bound-ro/new", O_CREAT | O_WRONLY));
	tell("bound-rw", opened("/bound-rw/new", O_CREAT | O_WRONLY));

#ifdef __x86_64__
	tell("ia32-getpid", apart(ia32, 20, 0, 0));
	words[0] = 38; // AF_ALG
	words[1] = SOCK_SEQPACKET;
	tell("ia32-socketcall-alg", apart(ia32, 102, 1, (long)words));
	tell("ia32-socket-alg", apart(ia32, 359, 38, SOCK_SEQPACKET));
	tell("ia32-unshare", apart(ia32, 310, CLONE_NEWUTS, 0));
	tell("x32-getpid", apart(x32, SYS_getpid, 0, 0));
#endif
	if (fclose(out) || rename("/probe.part", "/probe"))
		return 1;
	for (;;)
		pause();
}
