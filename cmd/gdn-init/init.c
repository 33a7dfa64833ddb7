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
#include <sys/stat.h>
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
static struct rlimit nofile;
static uint64_t bounding; // init's own set, which never changes

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
		unwatch(&p->progress);
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
	int fd = accept4(LISTENER, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	disconnect();
	conn = fd;
	watch(conn, EPOLLIN, &conn_owner, EPOLL_CTL_ADD);
}

// ---- the child -------------------------------------------------------------

static void fail(int progress, uint32_t stage) {
	struct outcome o = {.stage = stage, .error = errno};
	send(progress, &o, sizeof o, MSG_NOSIGNAL);
	_exit(255);
}

// make_dir creates path and its parents, 0755, as the caller.
static int make_dir(char *path) {
	struct stat st;
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return 0;
		errno = ENOTDIR;
		return -1;
	}
	for (char *at = path + 1;; at++) {
		if (*at != '/' && *at)
			continue;
		char kept = *at;
		*at = 0;
		int rc = mkdir(path, 0755), err = errno;
		if (rc < 0 && err != EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			err = EEXIST; // e.g. a read-only file system that has it
		*at = kept;
		if (rc < 0 && err != EEXIST) {
			errno = err;
			return -1;
		}
		if (!kept)
			return 0;
	}
}

static int set_caps(uint64_t permitted, uint64_t inheritable) {
	struct cap_head head = {.version = CAPABILITY_VERSION};
	struct cap_data data[2];
	for (int i = 0; i < 2; i++) {
		data[i].effective = data[i].permitted = (uint32_t)(permitted >> (32 * i));
		data[i].inheritable = (uint32_t)(inheritable >> (32 * i));
	}
	return syscall(SYS_capset, &head, data);
}

static int current_permitted(uint64_t *permitted) {
	struct cap_head head = {.version = CAPABILITY_VERSION};
	struct cap_data data[2];
	if (syscall(SYS_capget, &head, data) < 0)
		return -1;
	*permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	return 0;
}

// become takes on the ids and capabilities asked for. What the sandbox itself
// lacks cannot be had, so every set is cut to init's.
static int become(const struct request *q, const uint32_t *groups) {
	uint64_t mine;
	if (current_permitted(&mine) < 0)
		return -1;
	if (syscall(SYS_setgroups, (size_t)q->groups, groups) < 0 || syscall(SYS_setresgid, q->gid, q->gid, q->gid) < 0)
		return -1;
	for (int cap = 0; cap < 64; cap++)
		if ((bounding & ~q->bounding) >> cap & 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return -1;
	// Inheritable first: after the change of ids nothing could be raised.
	if (set_caps(mine, q->inheritable & mine) < 0)
		return -1;
	if (syscall(SYS_setresuid, q->uid, q->uid, q->uid) < 0)
		return -1;
	if (q->uid == 0 && set_caps(q->permitted & mine, q->inheritable & mine) < 0)
		return -1;
	return 0;
}

static const char *lookup(char **env, const char *key) {
	size_t n = strlen(key);
	for (; *env; env++)
		if (strncmp(*env, key, n) == 0 && (*env)[n] == '=')
			return *env + n + 1;
	return NULL;
}

// execute is execvpe with its errno reduced to what matters: a name found
// nowhere is ENOENT; one found but not executable is the error it met there.
static void execute(char **argv, char **env) {
	if (!*argv[0]) {
		errno = ENOENT;
		return;
	}
	if (strchr(argv[0], '/')) {
		execve(argv[0], argv, env);
		return;
	}
	const char *path = lookup(env, "PATH");
	if (!path || !*path) {
		errno = ENOENT;
		return;
	}
	static char full[PATH_MAX];
	size_t len = strlen(argv[0]);
	int seen = ENOENT;
	for (const char *end; path; path = end ? end + 1 : NULL) {
		end = strchr(path, ':');
		size_t n = end ? (size_t)(end - path) : strlen(path);
		if (n + len + 3 > sizeof full)
			continue;
		memcpy(full, path, n);
		if (n == 0)
			full[n++] = '.';
		full[n] = '/';
		memcpy(full + n + 1, argv[0], len + 1);
		execve(full, argv, env);
		if (errno == EACCES) {
			struct stat st;
			if (stat(full, &st) == 0 && S_ISREG(st.st_mode))
				seen = EACCES;
		} else if (errno != ENOENT && errno != ENOTDIR) {
			return;
		}
	}
	errno = seen;
}

// child becomes the process. stdio are the three descriptors to use; with a
// TTY they are the slave's.
static void child(const struct request *q, int payload, int progress, int stdio[3], int master) {
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();

	char *data = q->payload ? mmap(NULL, q->payload, PROT_READ | PROT_WRITE, MAP_PRIVATE, payload, 0) : MAP_FAILED;
	if (data == MAP_FAILED || data[q->payload - 1]) {
		errno = EINVAL;
		fail(progress, AT_REQUEST);
	}
	uint32_t *groups = (uint32_t *)data;
	char *at = data + sizeof *groups * q->groups, *end = data + q->payload;
	char **argv = calloc(q->argc + 1, sizeof *argv), **env = calloc(q->envc + 1, sizeof *env), *dir = at;
	if (!argv || !env)
		fail(progress, AT_REQUEST);
	at += strlen(at) + 1;
	for (uint32_t i = 0; i < q->argc + q->envc; i++) {
		if (at >= end) {
			errno = EINVAL;
			fail(progress, AT_REQUEST);
		}
		*(i < q->argc ? &argv[i] : &env[i - q->argc]) = at;
		at += strlen(at) + 1;
	}

	if (q->flags & TTY) {
		int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (slave < 0 || fchown(slave, q->uid, -1) < 0 || ioctl(slave, TIOCSCTTY, 0) < 0)
			fail(progress, AT_PTY);
		stdio[0] = stdio[1] = stdio[2] = slave;
	}
	// Out of the way of 0, 1 and 2, then nothing but these four stays open.
	progress = fcntl(progress, F_DUPFD_CLOEXEC, 64);
	for (int i = 0; i < 3; i++)
		if ((stdio[i] = fcntl(stdio[i], F_DUPFD_CLOEXEC, 64)) < 0)
			fail(progress, AT_REQUEST);
	for (int i = 0; i < 3; i++)
		if (dup2(stdio[i], i) < 0)
			fail(progress, AT_REQUEST);
	if (dup3(progress, 3, O_CLOEXEC) < 0)
		fail(progress, AT_REQUEST);
	progress = 3;
	syscall(SYS_close_range, 4, ~0U, 0);

	if (become(q, groups) < 0)
		fail(progress, AT_IDS);
	umask(022);
	if (make_dir(dir) < 0 || chdir(dir) < 0)
		fail(progress, AT_DIR);
	// A folder outside our root would show as "(unreachable)".
	char here[PATH_MAX];
	if (syscall(SYS_getcwd, here, sizeof here) < 0 || here[0] != '/') {
		errno = EPERM;
		fail(progress, AT_DIR);
	}
	if (setrlimit(RLIMIT_NOFILE, &nofile) < 0)
		fail(progress, AT_IDS);
	if (q->flags & HOLD) {
		struct outcome ready = {0};
		char go;
		if (send(progress, &ready, sizeof ready, MSG_NOSIGNAL) < 0 || recv(progress, &go, 1, 0) != 1)
			_exit(255);
	}
	execute(argv, env);
	fail(progress, AT_EXEC);
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
	int pair[2] = {-1, -1}, stdio[3] = {-1, -1, -1}, master = -1;
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
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		goto bad;
	if (q->flags & TTY) {
		stage = AT_PTY;
		if ((master = open_pty(q)) < 0)
			goto bad;
	} else {
		stdio[0] = fds[1];
		stdio[1] = fds[4];
		stdio[2] = fds[6];
	}
	stage = AT_FORK;
	pid_t pid = fork();
	if (pid < 0)
		goto bad;
	if (pid == 0)
		child(q, fds[0], pair[1], stdio, master);

	close(pair[1]);
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
		if (conn < 0)
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
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		bounding |= (uint64_t)prctl(PR_CAPBSET_READ, cap, 0, 0, 0) << cap;
	if (getrlimit(RLIMIT_NOFILE, &nofile) == 0) {
		struct rlimit all = {.rlim_cur = nofile.rlim_max, .rlim_max = nofile.rlim_max};
		setrlimit(RLIMIT_NOFILE, &all);
	}

	// What whoever started the server had ignored or blocked is no matter of
	// the processes here.
	for (int sig = 1; sig < _NSIG; sig++)
		signal(sig, SIG_DFL); // some cannot be set
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
