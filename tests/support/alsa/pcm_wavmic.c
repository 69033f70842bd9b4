/*
 * wavmic: a microphone for tests. An ALSA capture device (an "ioplug") that plays a file of raw S16_LE frames into the
 * real libasound, so that everything above the kernel is the code that runs on a real device.
 *
 * Fields of its asound.conf entry:
 *   file      path of the raw S16_LE frames (interleaved when channels > 1)
 *   rate      Hz, the only rate this "hardware" has          (16000)
 *   channels  the only channel count it has                  (1)
 *   format    the only sample format it has: S16_LE, S32_LE  (S16_LE)
 *   speed     1 = real time, 20 = up to twenty times faster, 0 = as fast as it is read  (1); above 1 a slow
 *             reader is waited for: only a microphone in real time overruns by itself
 *   eof       at the end of the file: silence, loop or gone  (silence)
 *   ctl       folder of the fault switches; none without it
 *   clock     wall, or told: ctl/clock says how many frames the room has heard, as fast as who moves it on likes  (wall)
 *
 * Fault switches, files in ctl:
 *   xrun   one overrun, then the file is removed      stall  no frames while it exists
 *   gone   unplugged while it exists                  busy   held by somebody else while it exists
 *   eio    reads fail while it exists                 suspend  asleep, and to be woken, once
 *   short  reads give half of what was asked for while it exists
 * A told clock is an array of int64, mapped by both sides: who tells writes SPOKEN, the device all else, and a byte in
 * the FIFO ctl/wake has whoever polls look again. Such a device overruns when it is told more than its buffer holds.
 * Where a file ctl/heard of eight bytes exists, it is mapped, and holds the position in the file up to which it was read.
 * With ctl the device is exclusive, as hardware is: a second open gets EBUSY (flock on ctl/claim). From the first
 * start on the modification time of ctl/claim is when frame 0 was spoken, by CLOCK_MONOTONIC: for who measures latency.
 *
 * Like a room, the file goes on while nobody listens: after an overrun the frames in between are missing.
 * All state lives in one struct per open device; nothing is static, so a process may open any number.
 */
#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum at_end { SILENCE, LOOP, GONE };

/* What a told clock holds: starts so far, and of the last one the position in the file and the frames read since. */
enum told { SPOKEN, STARTS, BASE, TAKEN, TOLD_WORDS };

typedef struct {
	snd_pcm_ioplug_t io;
	char ctl[256];
	unsigned rate, channels;
	snd_pcm_format_t format;
	double speed;
	enum at_end at_end;
	int64_t length; /* frames in the file */
	int tick, audio, claim; /* the timer that poll() sees, the file, the lock that makes the device exclusive */
	volatile int64_t *told; /* NULL: the clock on the wall */
	volatile int64_t *heard; /* NULL: nobody wants to know */
	bool halved;            /* the present read has had half of what it wanted */
	/* the clock of the device, in ns */
	int64_t origin;    /* when frame 0 of the file was spoken; moves on while stalled; 0 before the first start */
	int64_t frozen_at; /* when the present stall began; 0 when none */
	/* the running stream, in frames */
	bool running;
	int64_t base;  /* position in the file of the stream's first frame */
	int64_t taken; /* frames copied out since the stream started (io.appl_ptr: those the application has read) */
} wavmic_t;

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- fault switches ---- */

static void switch_path(const wavmic_t *mic, const char *name, char path[300])
{
	snprintf(path, 300, "%s/%s", mic->ctl, name);
}

static bool switched(const wavmic_t *mic, const char *name)
{
	char path[300];
	switch_path(mic, name, path);
	return mic->ctl[0] && access(path, F_OK) == 0;
}

/* True once per touch: whoever removes the file has the fault. */
static bool take(const wavmic_t *mic, const char *name)
{
	char path[300];
	switch_path(mic, name, path);
	return mic->ctl[0] && unlink(path) == 0;
}

/* A stalled device's clock stands still: what was not spoken during the stall comes after it. */
static void follow_stall(wavmic_t *mic)
{
	bool stall = switched(mic, "stall");
	if (stall && !mic->frozen_at)
		mic->frozen_at = now_ns();
	else if (!stall && mic->frozen_at) {
		mic->origin += now_ns() - mic->frozen_at;
		mic->frozen_at = 0;
	}
}

/* ---- time ---- */

/* The most frames ALSA may be told of: what was read, and a full buffer. */
static int64_t unread_limit(const wavmic_t *mic)
{
	return (int64_t)(mic->io.appl_ptr + mic->io.buffer_size);
}

/* Frames the room has heard since the device was first started. */
static int64_t spoken(const wavmic_t *mic)
{
	if (mic->told)
		return mic->told[SPOKEN];
	if (mic->speed <= 0)
		return mic->base + (mic->frozen_at ? mic->taken : unread_limit(mic));
	int64_t until = mic->frozen_at ? mic->frozen_at : now_ns();
	return (int64_t)((double)(until - mic->origin) * 1e-9 * mic->rate * mic->speed + 1e-6);
}

/* Frames captured since the stream started: what ALSA calls the hardware pointer. */
static int64_t captured(const wavmic_t *mic)
{
	int64_t frames = spoken(mic);
	if (mic->at_end == GONE && frames > mic->length)
		frames = mic->length;
	return frames > mic->base ? frames - mic->base : 0;
}

static bool unplugged(const wavmic_t *mic)
{
	return switched(mic, "gone") || (mic->at_end == GONE && mic->base + (int64_t)mic->io.appl_ptr >= mic->length);
}

/* One tick per period, rounded up so that a whole period is there when it comes: one wake-up per period. */
static void arm(wavmic_t *mic, bool on)
{
	struct itimerspec t = {0};
	if (mic->told)
		return;
	if (on) {
		double period = mic->speed > 0 ? 1e9 * (double)mic->io.period_size / mic->rate / mic->speed : 1e6;
		int64_t ns = (int64_t)period + 1;
		t.it_interval.tv_sec = ns / 1000000000;
		t.it_interval.tv_nsec = ns % 1000000000;
		t.it_value = t.it_interval;
		if (mic->speed <= 0) /* readable at once */
			t.it_value = (struct timespec){.tv_nsec = 1};
	}
	timerfd_settime(mic->tick, 0, &t, NULL);
}

static void drain_tick(wavmic_t *mic)
{
	uint64_t ticks;
	if (mic->speed <= 0 && !mic->frozen_at)
		return; /* always readable */
	while (read(mic->tick, &ticks, sizeof ticks) > 0)
		;
}

/* ---- what libasound calls ---- */

static int on_prepare(snd_pcm_ioplug_t *io)
{
	wavmic_t *mic = io->private_data;
	mic->base += mic->taken; /* a device with a clock moves on to what is spoken when it starts */
	mic->taken = 0;
	mic->running = false;
	return unplugged(mic) ? -ENODEV : 0;
}

static int on_start(snd_pcm_ioplug_t *io)
{
	wavmic_t *mic = io->private_data;
	follow_stall(mic);
	bool first = !mic->origin;
	if (first)
		mic->origin = mic->frozen_at ? mic->frozen_at : now_ns();
	if (mic->speed > 0)
		mic->base = spoken(mic);
	mic->running = true;
	if (mic->told) {
		mic->told[BASE] = mic->base;
		mic->told[TAKEN] = 0;
		__sync_synchronize(); /* who waits for the start finds it whole */
		mic->told[STARTS]++;
	}
	arm(mic, true);
	if (first && mic->claim >= 0) { /* a system call of a microsecond: to write a file takes samples' time */
		struct timespec origin = {mic->origin / 1000000000, mic->origin % 1000000000};
		futimens(mic->claim, (struct timespec[2]){origin, origin});
	}
	return 0;
}

static int on_stop(snd_pcm_ioplug_t *io)
{
	wavmic_t *mic = io->private_data;
	mic->running = false;
	arm(mic, false);
	return 0;
}

static snd_pcm_sframes_t on_pointer(snd_pcm_ioplug_t *io)
{
	wavmic_t *mic = io->private_data;
	if (unplugged(mic)) {
		snd_pcm_ioplug_set_state(io, SND_PCM_STATE_DISCONNECTED);
		return -ENODEV;
	}
	if (!mic->running)
		return 0;
	if (take(mic, "suspend")) /* no error from here: libasound would take it for an overrun */
		snd_pcm_ioplug_set_state(io, SND_PCM_STATE_SUSPENDED);
	follow_stall(mic);
	if (io->state != SND_PCM_STATE_SUSPENDED) /* or else poll() is to go on saying so */
		drain_tick(mic);
	int64_t frames = captured(mic), surplus = frames - unread_limit(mic);
	if (surplus > 0 && mic->speed > 1) { /* the sped-up clock waits for the reader */
		mic->origin += (int64_t)(1e9 * (double)surplus / mic->rate / mic->speed);
		frames -= surplus;
	}
	if (take(mic, "xrun") || frames > unread_limit(mic))
		return -EPIPE;
	return (snd_pcm_sframes_t)frames;
}

/* Fills out with n frames of the file from a position on; what lies behind the end is silence. */
static void fetch(const wavmic_t *mic, int64_t position, char *out, size_t n)
{
	size_t frame = 2 * mic->channels, want = n * frame, got = 0;
	memset(out, 0, want);
	while (got < want && mic->length) {
		off_t offset = position * (int64_t)frame + (int64_t)got;
		if (mic->at_end == LOOP)
			offset %= mic->length * (int64_t)frame;
		ssize_t r = pread(mic->audio, out + got, want - got, offset);
		if (r > 0)
			got += r;
		else if (r == 0 || errno != EINTR)
			return;
	}
}

static snd_pcm_sframes_t on_transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas,
				     snd_pcm_uframes_t offset, snd_pcm_uframes_t n)
{
	wavmic_t *mic = io->private_data;
	char *out = (char *)areas->addr + (areas->first + areas->step * offset) / 8;
	if (switched(mic, "eio"))
		return -EIO;
	if (switched(mic, "short") && (mic->halved = !mic->halved) == false)
		return -EAGAIN;
	if (mic->halved)
		n = (n + 1) / 2;
	fetch(mic, mic->base + mic->taken, out, n);
	if (mic->format == SND_PCM_FORMAT_S32_LE) /* widened in place, from the back */
		for (size_t i = n * mic->channels; i-- > 0;)
			((int32_t *)out)[i] = (int32_t)((uint32_t)(uint16_t)((int16_t *)out)[i] << 16);
	mic->taken += n;
	if (mic->told)
		mic->told[TAKEN] = mic->taken;
	if (mic->heard)
		*mic->heard = mic->base + mic->taken;
	return n;
}

static int on_poll_revents(snd_pcm_ioplug_t *io, struct pollfd *pfd, unsigned n, unsigned short *revents)
{
	wavmic_t *mic = io->private_data;
	(void)n;
	*revents = pfd[0].revents & ~POLLIN;
	if (!(pfd[0].revents & POLLIN))
		return 0;
	follow_stall(mic);
	drain_tick(mic);
	bool asleep = switched(mic, "suspend") || io->state == SND_PCM_STATE_SUSPENDED;
	if (unplugged(mic) || switched(mic, "xrun") || asleep)
		*revents |= POLLERR | POLLIN;
	else if (captured(mic) >= (int64_t)(io->appl_ptr + io->period_size))
		*revents |= POLLIN;
	else if (mic->at_end == GONE && mic->base + captured(mic) >= mic->length)
		*revents |= POLLIN; /* the last, short period */
	return 0;
}

static void release(wavmic_t *mic)
{
	close(mic->tick); /* closing -1 does nothing */
	close(mic->audio);
	close(mic->claim);
	if (mic->told)
		munmap((void *)mic->told, TOLD_WORDS * sizeof *mic->told);
	if (mic->heard)
		munmap((void *)mic->heard, sizeof *mic->heard);
	free(mic);
}

static int on_close(snd_pcm_ioplug_t *io)
{
	release(io->private_data);
	return 0;
}

static const snd_pcm_ioplug_callback_t callbacks = {
	.start = on_start,
	.stop = on_stop,
	.pointer = on_pointer,
	.transfer = on_transfer,
	.prepare = on_prepare,
	.poll_revents = on_poll_revents,
	.close = on_close,
};

/* ---- opening ---- */

static int configure(wavmic_t *mic, snd_config_t *conf, const char **file, bool *told)
{
	snd_config_iterator_t i, next;
	const char *ctl = "", *at_end = "silence", *format = "S16_LE", *clock = "wall";
	long rate = 16000, channels = 1;
	mic->speed = 1;
	snd_config_for_each(i, next, conf) {
		snd_config_t *node = snd_config_iterator_entry(i);
		const char *id;
		int err = 0;
		if (snd_config_get_id(node, &id) < 0)
			continue;
		if (!strcmp(id, "comment") || !strcmp(id, "type") || !strcmp(id, "hint"))
			continue;
		else if (!strcmp(id, "file"))
			err = snd_config_get_string(node, file);
		else if (!strcmp(id, "ctl"))
			err = snd_config_get_string(node, &ctl);
		else if (!strcmp(id, "eof"))
			err = snd_config_get_string(node, &at_end);
		else if (!strcmp(id, "clock"))
			err = snd_config_get_string(node, &clock);
		else if (!strcmp(id, "format"))
			err = snd_config_get_string(node, &format);
		else if (!strcmp(id, "speed"))
			err = snd_config_get_ireal(node, &mic->speed);
		else if (!strcmp(id, "rate"))
			err = snd_config_get_integer(node, &rate);
		else if (!strcmp(id, "channels"))
			err = snd_config_get_integer(node, &channels);
		else
			err = -EINVAL;
		if (err < 0) {
			SNDERR("wavmic: field %s is unknown or has the wrong type", id);
			return -EINVAL;
		}
	}
	mic->format = snd_pcm_format_value(format);
	mic->at_end = !strcmp(at_end, "loop") ? LOOP : !strcmp(at_end, "gone") ? GONE : SILENCE;
	*told = !strcmp(clock, "told");
	mic->rate = (unsigned)rate;
	mic->channels = (unsigned)channels;
	bool known = mic->format == SND_PCM_FORMAT_S16_LE || mic->format == SND_PCM_FORMAT_S32_LE;
	snprintf(mic->ctl, sizeof mic->ctl, "%s", ctl);
	return *file && known && rate > 0 && channels > 0 && strlen(ctl) < sizeof mic->ctl ? 0 : -EINVAL;
}

/* Maps count words of a file in ctl; NULL, and errno says why, where that cannot be. */
static volatile int64_t *map_words(const wavmic_t *mic, const char *name, size_t count)
{
	char path[300];
	switch_path(mic, name, path);
	int file = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		return NULL;
	void *page = mmap(NULL, count * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	return page == MAP_FAILED ? NULL : page;
}

/* Maps the clock, and opens the FIFO in the timer's place: for writing, too, so that it never ends. */
static int follow(wavmic_t *mic)
{
	char path[300];
	mic->told = map_words(mic, "clock", TOLD_WORDS);
	if (!mic->told)
		return -errno;
	switch_path(mic, "wake", path);
	mic->tick = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return mic->tick < 0 ? -errno : 0;
}

/* Takes the descriptors, or says why not with the error that real hardware gives. */
static int acquire(wavmic_t *mic, const char *file, bool told)
{
	struct stat info;
	char claim[300];
	if (switched(mic, "gone"))
		return -ENODEV;
	if (switched(mic, "busy"))
		return -EBUSY;
	if (mic->ctl[0]) {
		switch_path(mic, "claim", claim);
		mic->claim = open(claim, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (mic->claim < 0)
			return -errno;
		if (flock(mic->claim, LOCK_EX | LOCK_NB) < 0)
			return -EBUSY;
		futimens(mic->claim, NULL); /* not started yet */
		mic->heard = map_words(mic, "heard", 1);
	}
	mic->audio = open(file, O_RDONLY | O_CLOEXEC);
	if (mic->audio < 0 || fstat(mic->audio, &info) < 0)
		return -errno;
	mic->length = info.st_size / (2 * mic->channels);
	if (told)
		return follow(mic);
	mic->tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	return mic->tick < 0 ? -errno : 0;
}

/* The device has one rate, one channel count and one format: anything else is for the layers above to convert. */
static int constrain(wavmic_t *mic)
{
	snd_pcm_ioplug_t *io = &mic->io;
	unsigned access[] = {SND_PCM_ACCESS_RW_INTERLEAVED, SND_PCM_ACCESS_MMAP_INTERLEAVED};
	unsigned format[] = {(unsigned)mic->format};
	unsigned frame = (unsigned)snd_pcm_format_physical_width(mic->format) / 8 * mic->channels;
	int err;
	if ((err = snd_pcm_ioplug_set_param_list(io, SND_PCM_IOPLUG_HW_ACCESS, 2, access)) < 0 ||
	    (err = snd_pcm_ioplug_set_param_list(io, SND_PCM_IOPLUG_HW_FORMAT, 1, format)) < 0 ||
	    (err = snd_pcm_ioplug_set_param_minmax(io, SND_PCM_IOPLUG_HW_CHANNELS, mic->channels, mic->channels)) < 0 ||
	    (err = snd_pcm_ioplug_set_param_minmax(io, SND_PCM_IOPLUG_HW_RATE, mic->rate, mic->rate)) < 0 ||
	    (err = snd_pcm_ioplug_set_param_minmax(io, SND_PCM_IOPLUG_HW_PERIOD_BYTES, 64 * frame, 16384 * frame)) < 0)
		return err;
	return snd_pcm_ioplug_set_param_minmax(io, SND_PCM_IOPLUG_HW_PERIODS, 2, 32);
}

SND_PCM_PLUGIN_DEFINE_FUNC(wavmic)
{
	const char *file = NULL;
	bool told = false;
	(void)root;
	if (stream != SND_PCM_STREAM_CAPTURE)
		return -EINVAL;
	wavmic_t *mic = calloc(1, sizeof *mic);
	if (!mic)
		return -ENOMEM;
	mic->tick = mic->audio = mic->claim = -1;
	int err = configure(mic, conf, &file, &told);
	if (err >= 0)
		err = acquire(mic, file, told);
	if (err >= 0) {
		mic->io.version = SND_PCM_IOPLUG_VERSION;
		mic->io.name = "wavmic test microphone";
		mic->io.callback = &callbacks;
		mic->io.private_data = mic;
		mic->io.poll_fd = mic->tick;
		mic->io.poll_events = POLLIN;
		mic->io.flags = SND_PCM_IOPLUG_FLAG_BOUNDARY_WA; /* the pointer counts on and does not wrap */
		err = snd_pcm_ioplug_create(&mic->io, name, stream, mode);
	}
	if (err < 0) {
		release(mic);
		return err;
	}
	err = constrain(mic);
	if (err < 0) {
		snd_pcm_ioplug_delete(&mic->io); /* calls on_close */
		return err;
	}
	*pcmp = mic->io.pcm;
	return 0;
}
SND_PCM_PLUGIN_SYMBOL(wavmic);
