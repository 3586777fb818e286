// ------------------------------------------------------------------ player
// All sounds of a choice run at the same time, sample by sample; only one is let through. To switch
// is to move two gains, so that the position is never lost and nothing clicks.

const RATE = 16000;
const TAU = 0.004; // seconds; time constant of every fade. Two opposite ones add up to 1 throughout.
const LEAD = 0.016; // seconds from a command to its sound; a whole number of samples

/** Sounds by number, decoded when first asked for. */
const library = {
  decoded: new Map(),

  get(id) {
    if (!this.decoded.has(id)) this.decoded.set(id, this.decode(id));
    return this.decoded.get(id);
  },

  async decode(id) {
    const text = byId(`audio-${id}`).textContent;
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    // A context of 16 kHz, or the browser would resample to the rate of the sound card.
    return new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes.buffer);
  },
};

class Player extends EventTarget {
  #context = null;
  #volume = null; // gain node before the output
  #group = null; // the running sources, null while paused
  #buffers = [];
  #active = 0;
  #rest = 0; // position while paused, seconds
  #loop = true;
  #part = null; // [from, to] of the loop in seconds, null: all
  #level = 1;

  get playing() {
    return this.#group !== null;
  }

  get active() {
    return this.#active;
  }

  get duration() {
    return this.#buffers.length ? this.#buffers[0].duration : 0;
  }

  get loop() {
    return this.#loop;
  }

  get part() {
    return this.#part;
  }

  /** Position in seconds, at a time of the audio clock (now if it is left out). */
  position(at = null) {
    if (!this.#group) return this.#rest;
    const now = at ?? this.#context.currentTime;
    let position = this.#group.position + Math.max(0, now - this.#group.at);
    if (this.#group.loop) {
      const [from, to] = this.#bounds();
      if (position >= to) position = from + ((position - from) % (to - from));
    }
    return Math.min(position, this.duration);
  }

  /** Take other sounds: same position and still playing, or from the start. */
  setSounds(buffers, active, keepPosition) {
    const old = this.#moveFrom();
    this.#buffers = buffers;
    this.#active = active;
    if (!keepPosition) {
      this.#part = null;
      old.position = 0;
    }
    this.#moveTo(old);
    this.#tell();
  }

  /** Let another sound through. */
  select(active) {
    if (active === this.#active || !this.#buffers[active]) return;
    this.#active = active;
    if (this.#group) {
      const now = this.#context.currentTime;
      this.#group.gains.forEach((gain, i) => {
        gain.gain.setTargetAtTime(i === active ? 1 : 0, now, TAU);
      });
    }
    this.#tell();
  }

  async play() {
    if (this.#group || !this.#buffers.length) return;
    this.#open();
    if (this.#context.state !== "running") await this.#context.resume();
    if (this.#group) return; // pressed twice while the sound card woke up
    this.#start(this.#rest >= this.duration - 0.01 ? 0 : this.#rest);
    this.#tell();
  }

  pause() {
    if (!this.#group) return;
    this.#rest = this.position();
    this.#stop(this.#context.currentTime);
    this.#tell();
  }

  toggle() {
    return this.playing ? this.pause() : this.play();
  }

  seek(position) {
    const old = this.#moveFrom();
    old.position = Math.min(Math.max(0, position), this.duration);
    this.#moveTo(old);
    this.#tell();
  }

  setLoop(loop) {
    const old = this.#moveFrom();
    this.#loop = loop;
    this.#moveTo(old);
    this.#tell();
  }

  /** Loop a part only, [from, to] in seconds; null: all. */
  setPart(part) {
    const old = this.#moveFrom();
    this.#part = part && part[1] - part[0] >= 0.1 ? part : null;
    if (this.#part) this.#loop = true;
    this.#moveTo(old);
    this.#tell();
  }

  /** Volume 0..1, as the slider stands; loudness goes by its square. */
  setVolume(level) {
    this.#level = level;
    if (this.#context) {
      this.#volume.gain.setTargetAtTime(level * level, this.#context.currentTime, 0.01);
    }
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }

  #bounds() {
    return this.#part ?? [0, this.duration];
  }

  #open() {
    if (this.#context) return;
    try {
      // At the sounds' own rate the browser resamples once, at the output, with a good filter;
      // a source that does not fit its context is only interpolated linearly.
      this.#context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    } catch {
      this.#context = new AudioContext();
    }
    this.#volume = this.#context.createGain();
    this.#volume.gain.value = this.#level * this.#level;
    this.#volume.connect(this.#context.destination);
  }

  /** What is needed to go on after a change: whether it plays, where, and from when. */
  #moveFrom() {
    if (!this.#group) return { playing: false, position: this.#rest };
    const at = this.#context.currentTime + LEAD;
    return { playing: true, at, position: this.position(at) };
  }

  #moveTo(old) {
    if (!old.playing) {
      this.#rest = Math.min(old.position, this.duration);
      return;
    }
    this.#stop(old.at);
    if (this.#buffers.length) this.#start(old.position, old.at);
    else this.#rest = 0;
  }

  #start(position, at = this.#context.currentTime + LEAD) {
    const [from, to] = this.#bounds();
    const outside = this.#loop && (position < from || position >= to);
    const whole = Math.round((outside ? from : position) * RATE) / RATE;
    const bus = this.#context.createGain();
    bus.gain.value = 0;
    bus.gain.setTargetAtTime(1, at, TAU);
    bus.connect(this.#volume);
    const sources = [];
    const gains = [];
    for (const [i, buffer] of this.#buffers.entries()) {
      const source = this.#context.createBufferSource();
      const gain = this.#context.createGain();
      source.buffer = buffer;
      source.loop = this.#loop;
      source.loopStart = from;
      source.loopEnd = to;
      gain.gain.value = i === this.#active ? 1 : 0;
      source.connect(gain).connect(bus);
      source.start(at, whole);
      sources.push(source);
      gains.push(gain);
    }
    const group = { bus, sources, gains, at, position: whole, loop: this.#loop };
    sources[0].onended = () => {
      bus.disconnect();
      if (this.#group !== group) return; // it was stopped by us
      this.#group = null;
      this.#rest = 0;
      this.#tell();
    };
    this.#group = group;
  }

  #stop(at) {
    const { bus, sources } = this.#group;
    bus.gain.setTargetAtTime(0, at, TAU);
    for (const source of sources) source.stop(at + 20 * TAU);
    this.#group = null;
  }
}
