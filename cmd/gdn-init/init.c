// gdn-init is PID 1 of every sandbox and the keeper of its processes.
//
// It inherits one listening SOCK_SEQPACKET socket as descriptor 3. Whoever
// connects last is the server; the connection before it is dropped. On the
// server's word it forks processes, and it keeps the far ends of their pipes
// and their exit status until the server says that it may forget them, so a
// server that was killed finds everything again when it comes back.
//
// It reaps orphans, forwards nothing it was not asked to, and never exits.
// One thread, no waiting on anything but epoll. Messages are the structs of
// rundmc/keeper/wire.go; both run on one host, so they are in host order.
//
// It is undumpable, so the container's root can neither trace it nor reach
// its descriptors.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stddef.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

// Of <linux/capability.h>, which musl does not bring.
#define CAPABILITY_VERSION 0x20080522
struct cap_head {
	uint32_t version;
	int pid;
};
struct cap_data {
	uint32_t effective, permitted, inheritable;
};

enum { VERSION = 1, LISTENER = 3, MAX_FDS = 7, MAX_ID = 255, MAX_GROUPS = 65536, MAX_PAYLOAD = 8 << 20 };

// Requests.
enum { HELLO = 1, START, GO, CLOSE_STDIN, FORGET };
// Replies. PROCESS describes one process and carries its descriptors.
enum { WELCOME = 65, PROCESS, HELD, STARTED, EXITED };
// Flags of START and PROCESS.
enum { TTY = 1, HOLD = 2, STDIN_OPEN = 4 };
// States of a process.
enum { STARTING = 1, HOLDING, RUNNING, ENDED };
// Where a start went wrong.
enum { AT_REQUEST = 1, AT_FORK, AT_PTY, AT_IDS, AT_DIR, AT_EXEC };

struct request {
	uint32_t type, flags;
	uint64_t token;
	uint32_t uid, gid;
	uint64_t bounding, inheritable, permitted;
	uint32_t groups, argc, envc, payload; // counts, and the payload's bytes
	uint16_t columns, rows;
	uint32_t idlen;
	char id[MAX_ID + 1];
};

struct reply {
	uint32_t type, flags;
	uint64_t token;
	uint32_t state, status; // WELCOME: version, number of processes
	uint32_t stage, error;
	uint32_t pid, idlen;
	char id[MAX_ID + 1];
};

// What a child tells init over its status socket: where it failed, or stage 0
// for "ready, waiting for GO". End of file means that exec succeeded.
struct outcome {
	uint32_t stage, error;
};

struct process {
	struct process *next;
	uint64_t token;
	pid_t pid;
	uint32_t state, status, stage, error, flags;
	int in, out, err;  // our ends; with a TTY only in: the master
	int progress;      // the child's status socket, -1 once it has executed
	struct birth *birth; // until then
	uint32_t generation; // of the connection that asked for it
	uint8_t tell;      // replies owed to the server, bits of TELL_*
	uint32_t idlen;
	char id[];
};

enum { TELL_PROCESS = 1, TELL_HELD = 2, TELL_STARTED = 4, TELL_EXITED = 8 };

static struct process *processes;
static uint32_t process_count;
static int epfd, conn = -1, sigfd;
static int greeted; // HELLO has been answered on conn
static int welcome; // WELCOME is owed
static uint32_t generation; // of conn, counted
static struct rlimit nofile;
static uint64_t bounding, permitted; // init's own sets, which never change

static void watch(int fd, uint32_t events, void *owner, int op) {
	struct epoll_event e = {.events = events, .data.ptr = owner};
	epoll_ctl(epfd, op, fd, &e);
}

// Owners in the epoll set that are not processes.
static char listener_owner, conn_owner, signal_owner;

static void drop(int *fd) {
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

// unwatch comes before drop where a child may still hold a copy: epoll would
// go on reporting the shared description.
static void unwatch(int *fd) {
	if (*fd >= 0)
		epoll_ctl(epfd, EPOLL_CTL_DEL, *fd, NULL);
	drop(fd);
}

static struct process *find(uint64_t token) {
	for (struct process *p = processes; p; p = p->next)
		if (p->token == token)
			return p;
	return NULL;
}

static void forget(struct process *p) {
	for (struct process **at = &processes; *at; at = &(*at)->next) {
		if (*at != p)
			continue;
		*at = p->next;
		process_count--;
		drop(&p->in);
		drop(&p->out);
		drop(&p->err);
		unwatch(&p->progress); // closed already: none is forgotten before its end
		free(p);
		return;
	}
}

// ---- to the server ---------------------------------------------------------

// send_reply returns 0 if the message went out, -1 if the socket is full or gone.
static int send_reply(const struct reply *r, const int *fds, int nfds) {
	struct iovec iov = {.iov_base = (void *)r, .iov_len = offsetof(struct reply, id) + r->idlen};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int) * MAX_FDS)];
	} control;
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	if (nfds > 0) {
		memset(&control, 0, sizeof control);
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	return sendmsg(conn, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

// tell sends one reply about p. Descriptors go with PROCESS, HELD and
// STARTED, in the order pidfd, then master, or stdin (if open), stdout, stderr.
static int tell(struct process *p, uint32_t type) {
	struct reply r = {
		.type = type, .token = p->token, .state = p->state, .status = p->status,
		.stage = p->stage, .error = p->error, .pid = p->pid, .flags = p->flags,
	};
	int fds[MAX_FDS], n = 0, pidfd = -1;
	if (p->in >= 0)
		r.flags |= STDIN_OPEN;
	else
		r.flags &= ~STDIN_OPEN;
	if (type != EXITED && p->state != ENDED) {
		pidfd = syscall(SYS_pidfd_open, p->pid, 0);
		if (pidfd >= 0)
			fds[n++] = pidfd;
	}
	if (type == PROCESS || (type == STARTED && p->flags & TTY && !p->stage)) {
		if (p->in >= 0)
			fds[n++] = p->in;
		if (p->out >= 0)
			fds[n++] = p->out;
		if (p->err >= 0)
			fds[n++] = p->err;
	}
	if (type == PROCESS) {
		r.idlen = p->idlen;
		memcpy(r.id, p->id, p->idlen);
	}
	int rc = send_reply(&r, fds, n);
	drop(&pidfd);
	return rc;
}

// flush pays what is owed, as far as the socket takes it.
static void flush(void) {
	static const struct { uint8_t bit; uint32_t type; } kinds[] = {
		{TELL_PROCESS, PROCESS}, {TELL_HELD, HELD}, {TELL_STARTED, STARTED}, {TELL_EXITED, EXITED},
	};
	if (conn < 0 || !greeted)
		return;
	if (welcome) {
		struct reply r = {.type = WELCOME, .state = VERSION, .status = process_count};
		if (send_reply(&r, NULL, 0) < 0)
			goto full;
		welcome = 0;
	}
	for (struct process *p = processes, *next; p; p = next) {
		next = p->next;
		for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
			if (!(p->tell & kinds[k].bit))
				continue;
			if (tell(p, kinds[k].type) < 0)
				goto full;
			p->tell &= ~kinds[k].bit;
		}
		// A process that never came to be is known to nobody once it is told.
		if (p->stage && p->state == ENDED && !p->tell)
			forget(p);
	}
	watch(conn, EPOLLIN, &conn_owner, EPOLL_CTL_MOD);
	return;
full:
	watch(conn, EPOLLIN | EPOLLOUT, &conn_owner, EPOLL_CTL_MOD);
}

static void disconnect(void) {
	unwatch(&conn);
	greeted = welcome = 0;
	// Whoever asked for these is gone before it set their limits.
	for (struct process *p = processes; p; p = p->next)
		if (p->state == HOLDING)
			kill(p->pid, SIGKILL);
}

static void accept_server(void) {
	disconnect(); // first: the place of its descriptor may be the last one
	generation++;
	conn = accept4(LISTENER, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (conn < 0)
		return;
	watch(conn, EPOLLIN, &conn_owner, EPOLL_CTL_ADD);
}

// ---- the child -------------------------------------------------------------
//
// A child shares init's memory until it executes (CLONE_VM): copying page
// tables, and a fault for each page touched afterwards, cost more than all the
// rest of a start. So it writes nothing but its own struct birth and calls the
// kernel directly, since errno is shared too. Init does not wait for it: a
// directory on a file system that hangs holds up this child alone.

static long sys(long n, long a, long b, long c, long d, long e) {
#if defined(__x86_64__)
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = 0;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#else
#error "no system calls for this architecture"
#endif
}

#define SYS(n, ...) SYS_(SYS_##n, __VA_ARGS__, 0, 0, 0, 0, 0)
#define SYS_(n, a, b, c, d, e, ...) sys(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

// A birth is all that a child needs, in one mapping with its payload and its
// stack. Init releases it when the child has executed or ended.
struct birth {
	struct request q;
	int stdio[3], master, progress;
	uint32_t *groups;
	char *dir, **argv, **env;
	size_t size; // of the mapping
	char path[2 * PATH_MAX];
	char stack[16384] __attribute__((aligned(16)));
	char payload[];
};

static void fail(struct birth *b, uint32_t stage, long err) {
	struct outcome o = {.stage = stage, .error = -err};
	SYS(sendto, b->progress, &o, sizeof o, MSG_NOSIGNAL, 0);
	SYS(exit_group, 255);
}

static long open_dir(const char *path) {
	return SYS(openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

// make_dir opens path, which it creates with its parents, 0755, as the caller.
static long make_dir(char *path) {
	long fd = open_dir(path);
	if (fd != -ENOENT)
		return fd;
	for (char *at = path + 1;; at++) {
		if (*at != '/' && *at)
			continue;
		char kept = *at;
		*at = 0;
		long rc = SYS(mkdirat, AT_FDCWD, path, 0755);
		if (rc < 0 && rc != -EEXIST) {
			// It may be there all the same, on a read-only file system.
			long there = open_dir(path);
			if (there >= 0) {
				SYS(close, there);
				rc = 0;
			}
		}
		*at = kept;
		if (rc < 0 && rc != -EEXIST)
			return rc;
		if (!kept)
			return open_dir(path);
	}
}

static long set_caps(uint64_t permitted, uint64_t inheritable) {
	struct cap_head head = {.version = CAPABILITY_VERSION};
	struct cap_data data[2];
	for (int i = 0; i < 2; i++) {
		data[i].effective = data[i].permitted = (uint32_t)(permitted >> (32 * i));
		data[i].inheritable = (uint32_t)(inheritable >> (32 * i));
	}
	return SYS(capset, &head, data);
}

// become takes on the ids and capabilities asked for. What the sandbox itself
// lacks cannot be had, so every set is cut to init's.
static long become(const struct birth *b) {
	const struct request *q = &b->q;
	long rc;
	if ((rc = SYS(setgroups, q->groups, b->groups)) < 0 || (rc = SYS(setresgid, q->gid, q->gid, q->gid)) < 0)
		return rc;
	for (int cap = 0; cap < 64; cap++)
		if ((bounding & ~q->bounding) >> cap & 1 && (rc = SYS(prctl, PR_CAPBSET_DROP, cap)) < 0)
			return rc;
	// Inheritable first: after the change of ids nothing could be raised.
	if ((rc = set_caps(permitted, q->inheritable & permitted)) < 0 || (rc = SYS(setresuid, q->uid, q->uid, q->uid)) < 0)
		return rc;
	if (q->uid == 0)
		return set_caps(q->permitted & permitted, q->inheritable & permitted);
	return 0;
}

static const char *search_path(char **env) {
	for (; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return "";
}

// execute is execvpe with its error reduced to what matters: a name found
// nowhere is ENOENT; one found but not executable is the error it met there.
static long execute(struct birth *b) {
	const char *name = b->argv[0], *path = search_path(b->env);
	size_t len = strlen(name);
	if (strchr(name, '/'))
		return SYS(execve, name, b->argv, b->env);
	if (!len || !*path)
		return -ENOENT;
	long seen = -ENOENT;
	for (;; path++) {
		const char *from = path;
		path += strcspn(path, ":");
		size_t n = path - from;
		if (n + len + 3 <= sizeof b->path) {
			memcpy(b->path, from, n);
			if (n == 0)
				b->path[n++] = '.';
			b->path[n] = '/';
			memcpy(b->path + n + 1, name, len + 1);
			long rc = SYS(execve, b->path, b->argv, b->env);
			if (rc == -EACCES) {
				if (open_dir(b->path) < 0) // a directory is no find
					seen = rc;
			} else if (rc != -ENOENT && rc != -ENOTDIR) {
				return rc;
			}
		}
		if (!*path)
			return seen;
	}
}

// child becomes the process. Its stdio are the three descriptors to use; with
// a TTY they are the slave's.
static int child(void *birth) {
	struct birth *b = birth;
	uint64_t none = 0;
	long rc;
	SYS(rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
	SYS(setsid, 0);

	if (b->q.flags & TTY) {
		long slave = SYS(ioctl, b->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (slave < 0)
			fail(b, AT_PTY, slave);
		if ((rc = SYS(fchown, slave, b->q.uid, -1)) < 0 || (rc = SYS(ioctl, slave, TIOCSCTTY, 0)) < 0)
			fail(b, AT_PTY, rc);
		b->stdio[0] = b->stdio[1] = b->stdio[2] = slave;
	}
	// Out of the way of 0, 1 and 2, then nothing but these four stays open.
	b->progress = SYS(fcntl, b->progress, F_DUPFD_CLOEXEC, 64);
	for (int i = 0; i < 3; i++)
		if ((b->stdio[i] = SYS(fcntl, b->stdio[i], F_DUPFD_CLOEXEC, 64)) < 0)
			fail(b, AT_REQUEST, b->stdio[i]);
	for (int i = 0; i < 3; i++)
		if ((rc = SYS(dup3, b->stdio[i], i, 0)) < 0)
			fail(b, AT_REQUEST, rc);
	if ((rc = SYS(dup3, b->progress, 3, O_CLOEXEC)) < 0)
		fail(b, AT_REQUEST, rc);
	b->progress = 3;
	if ((rc = SYS(close_range, 4, ~0U, 0)) < 0)
		fail(b, AT_REQUEST, rc);

	if ((rc = become(b)) < 0)
		fail(b, AT_IDS, rc);
	SYS(umask, 022);
	long dir = make_dir(b->dir);
	if (dir < 0 || (dir = SYS(fchdir, dir)) < 0)
		fail(b, AT_DIR, dir);
	// A folder outside our root would show as "(unreachable)".
	if ((rc = SYS(getcwd, b->path, sizeof b->path)) < 0 || b->path[0] != '/')
		fail(b, AT_DIR, rc < 0 ? rc : -EPERM);
	SYS(close_range, 4, ~0U, 0); // dir
	if ((rc = SYS(prlimit64, 0, RLIMIT_NOFILE, &nofile, 0)) < 0)
		fail(b, AT_IDS, rc);
	if (b->q.flags & HOLD) {
		struct outcome ready = {0};
		char go;
		if (SYS(sendto, 3, &ready, sizeof ready, MSG_NOSIGNAL, 0) < 0 || SYS(recvfrom, 3, &go, 1, 0, 0) != 1)
			SYS(exit_group, 255);
	}
	fail(b, AT_EXEC, execute(b));
	return 0;
}

// spare is a birth of the smallest size for the next child.
static struct birth *spare;

static size_t smallest(void) { return (sizeof(struct birth) + 16384 + 4095) & ~4095UL; }

static void release(struct birth *b) {
	if (!b)
		return;
	if (!spare && b->size == smallest())
		spare = b;
	else
		munmap(b, b->size);
}

// conceive reads q's payload from fd; NULL with errno if it is not sound.
static struct birth *conceive(const struct request *q, int fd) {
	size_t strings = (q->payload + 7) & ~7UL, size = sizeof(struct birth) + strings + sizeof(char *) * (q->argc + q->envc + 2UL);
	struct birth *b = spare;
	if (size <= smallest())
		size = smallest();
	if (b && size == b->size) {
		spare = NULL;
	} else {
		b = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (b == MAP_FAILED)
			return NULL;
		b->size = size;
	}
	b->q = *q;
	char *at = b->payload + sizeof(uint32_t) * q->groups, *end = b->payload + q->payload;
	if (pread(fd, b->payload, q->payload, 0) != (ssize_t)q->payload || end[-1])
		goto bad;
	b->groups = (uint32_t *)b->payload;
	b->argv = (char **)(b->payload + strings);
	b->env = b->argv + q->argc + 1;
	b->argv[q->argc] = b->env[q->envc] = NULL;
	b->dir = at;
	at += strlen(at) + 1;
	for (uint32_t i = 0; i < q->argc + q->envc; i++) {
		if (at >= end)
			goto bad;
		*(i < q->argc ? &b->argv[i] : &b->env[i - q->argc]) = at;
		at += strlen(at) + 1;
	}
	return b;
bad:
	release(b);
	errno = EINVAL;
	return NULL;
}

// ---- from the server -------------------------------------------------------

static void refuse(const struct request *q, uint32_t stage) {
	struct reply r = {.type = STARTED, .token = q->token, .state = ENDED, .stage = stage, .error = errno};
	send_reply(&r, NULL, 0); // the server has room for the answer to its own question
}

static int open_pty(const struct request *q) {
	int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), unlock = 0;
	struct winsize size = {.ws_col = q->columns, .ws_row = q->rows};
	if (master < 0)
		return -1;
	if (ioctl(master, TIOCSPTLCK, &unlock) < 0 || ioctl(master, TIOCSWINSZ, &size) < 0) {
		drop(&master);
		return -1;
	}
	return master;
}

// start takes over fds: the payload, then, without a TTY, pairs of ends for
// stdin (read, write), stdout (read, write) and stderr (read, write).
static void start(const struct request *q, int *fds, int nfds) {
	struct process *p = NULL;
	struct birth *b = NULL;
	int pair[2] = {-1, -1}, master = -1;
	uint32_t stage = AT_REQUEST;

	errno = EINVAL;
	if (nfds != (q->flags & TTY ? 1 : 7) || q->idlen > MAX_ID || q->groups > MAX_GROUPS || q->argc < 1 ||
	    q->payload > MAX_PAYLOAD || q->argc > q->payload || q->envc > q->payload ||
	    q->groups * sizeof(uint32_t) >= q->payload)
		goto bad;
	if (find(q->token)) {
		errno = EEXIST;
		goto bad;
	}
	if (!(p = calloc(1, sizeof *p + q->idlen)))
		goto bad;
	if (!(b = conceive(q, fds[0])) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		goto bad;
	if (q->flags & TTY) {
		stage = AT_PTY;
		if ((master = open_pty(q)) < 0)
			goto bad;
	} else {
		b->stdio[0] = fds[1];
		b->stdio[1] = fds[4];
		b->stdio[2] = fds[6];
	}
	b->master = master;
	b->progress = pair[1];
	stage = AT_FORK;
	pid_t pid = clone(child, b->stack + sizeof b->stack, CLONE_VM | SIGCHLD, b);
	if (pid < 0)
		goto bad;

	close(pair[1]);
	p->birth = b;
	p->generation = generation;
	p->token = q->token;
	p->pid = pid;
	p->state = STARTING;
	p->flags = q->flags & TTY;
	p->progress = pair[0];
	p->idlen = q->idlen;
	memcpy(p->id, q->id, q->idlen);
	p->in = p->out = p->err = -1;
	if (q->flags & TTY) {
		p->in = master;
	} else {
		p->in = fds[2];
		p->out = fds[3];
		p->err = fds[5];
		fds[2] = fds[3] = fds[5] = -1;
	}
	p->next = processes;
	processes = p;
	process_count++;
	watch(p->progress, EPOLLIN, p, EPOLL_CTL_ADD);
	for (int i = 0; i < nfds; i++)
		drop(&fds[i]);
	return;
bad:
	refuse(q, stage);
	free(p);
	release(b);
	drop(&pair[0]);
	drop(&pair[1]);
	drop(&master);
	for (int i = 0; i < nfds; i++)
		drop(&fds[i]);
}

static void serve(void) {
	for (;;) {
		struct request q = {0};
		int fds[MAX_FDS], nfds = 0;
		union {
			struct cmsghdr head;
			char room[CMSG_SPACE(sizeof(int) * MAX_FDS)];
		} control;
		struct iovec iov = {.iov_base = &q, .iov_len = sizeof q};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		ssize_t n = recvmsg(conn, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			disconnect();
			return;
		}
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
			if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
				nfds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
				memcpy(fds, CMSG_DATA(c), sizeof(int) * nfds);
			}
		struct process *p = find(q.token);
		switch (n == sizeof q ? q.type : 0) {
		case HELLO:
			greeted = welcome = 1;
			for (struct process *each = processes; each; each = each->next)
				each->tell = TELL_PROCESS;
			break;
		case START:
			start(&q, fds, nfds);
			nfds = 0;
			break;
		case GO:
			if (p && p->state == HOLDING) {
				p->state = STARTING;
				send(p->progress, "", 1, MSG_NOSIGNAL); // gone: its end tells
			}
			break;
		case CLOSE_STDIN:
			if (p && !(p->flags & TTY))
				drop(&p->in);
			break;
		case FORGET:
			if (p && p->state == ENDED)
				forget(p);
			break;
		}
		for (int i = 0; i < nfds; i++)
			close(fds[i]);
		flush();
		if (conn < 0)
			return;
	}
}

// progressed reads what the child has to say of its start.
static void progressed(struct process *p) {
	struct outcome o;
	ssize_t n = recv(p->progress, &o, sizeof o, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == sizeof o && o.stage == 0) {
		p->state = HOLDING;
		if (conn < 0 || p->generation != generation) // nobody to let it go
			kill(p->pid, SIGKILL);
		else
			p->tell |= TELL_HELD;
	} else {
		if (n == sizeof o) {
			p->stage = o.stage;
			p->error = o.error;
		} else if (p->state == HOLDING) {
			p->stage = AT_EXEC; // killed before it was let go
			p->error = ESRCH;
		}
		unwatch(&p->progress);
		if (!p->stage && p->state == STARTING)
			p->state = RUNNING;
		p->tell |= TELL_STARTED;
	}
}

static void reap(void) {
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (struct process *p = processes; p; p = p->next) {
			if (p->pid != pid || p->state == ENDED)
				continue;
			// What it said comes before its end: at most "ready" and one more.
			for (int i = 0; i < 3 && p->progress >= 0; i++)
				progressed(p);
			p->state = ENDED;
			p->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			if (!p->stage)
				p->tell |= TELL_EXITED;
			else if (conn < 0)
				p->tell = TELL_STARTED; // nobody waits for it: forgotten at the next greeting
			break;
		}
	}
	flush();
}

int main(void) {
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NAME, "gdn-init", 0, 0, 0);
	if (fcntl(LISTENER, F_SETFD, FD_CLOEXEC) < 0 || fcntl(LISTENER, F_SETFL, O_NONBLOCK) < 0)
		return 2;
	struct cap_head head = {.version = CAPABILITY_VERSION};
	struct cap_data mine[2];
	if (syscall(SYS_capget, &head, mine) < 0)
		return 2;
	permitted = mine[0].permitted | (uint64_t)mine[1].permitted << 32;
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		bounding |= (uint64_t)prctl(PR_CAPBSET_READ, cap, 0, 0, 0) << cap;
	if (getrlimit(RLIMIT_NOFILE, &nofile) == 0) {
		struct rlimit all = {.rlim_cur = nofile.rlim_max, .rlim_max = nofile.rlim_max};
		setrlimit(RLIMIT_NOFILE, &all);
	}

	// What whoever started the server had ignored or blocked is no matter of
	// the processes here.
	// Not by signal(), which leaves out those that libc keeps for itself.
	static const uint64_t standard[4]; // the kernel's sigaction, SIG_DFL
	for (int sig = 1; sig < _NSIG; sig++)
		syscall(SYS_rt_sigaction, sig, standard, NULL, 8UL); // KILL and STOP stay as they are
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	sigfd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (sigfd < 0 || epfd < 0)
		return 2;
	watch(LISTENER, EPOLLIN, &listener_owner, EPOLL_CTL_ADD);
	watch(sigfd, EPOLLIN, &signal_owner, EPOLL_CTL_ADD);

	for (;;) {
		struct epoll_event e;
		if (epoll_wait(epfd, &e, 1, -1) < 1)
			continue;
		if (e.data.ptr == &listener_owner) {
			accept_server();
		} else if (e.data.ptr == &signal_owner) {
			struct signalfd_siginfo info;
			while (read(sigfd, &info, sizeof info) == sizeof info)
				;
			reap();
		} else if (e.data.ptr == &conn_owner) {
			if (e.events & EPOLLIN)
				serve();
			else if (e.events & (EPOLLHUP | EPOLLERR))
				disconnect();
			else
				flush();
		} else {
			progressed(e.data.ptr);
			flush();
		}
	}
}
