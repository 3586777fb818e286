// ------------------------------------------------------------------ compare
// Choose clip and rate; table of sounds with scores, spectrograms one below the other.

const FAR = 0.15; // a peer's rate that is further off than this is marked

class CompareView {
  #data;
  #player;
  #clip = 0;
  #rate = 0;
  #codec = "reference"; // which sound is heard
  #previous = null; // and which one before, to go back to
  #sounds = []; // of this clip and rate, the reference first
  #picture = "level"; // or "difference"
  #size = "all"; // or "large": the selected one; or "beside": with reference and difference
  #choice = 0; // counts choices: what was decoded for an older one is dropped
  #parts = {};
  #lines = []; // playheads over the spectrograms

  constructor(data, player) {
    this.#data = data;
    this.#player = player;
  }

  show(root) {
    this.#build(root);
    this.#choose(false);
  }

  hide() {
    this.#choice += 1;
    this.#lines = [];
  }

  key(key) {
    const digit = "123456789".indexOf(key);
    if (key.length === 1 && digit >= 0 && digit < this.#sounds.length) this.#select(digit);
    else if (key === "r") this.#select(0);
    else if (key === "x") this.#swap();
    else if (key === "n") this.#step("clip", 1);
    else if (key === "p") this.#step("clip", -1);
    else if (key === "+" || key === "=") this.#step("rate", 1);
    else if (key === "-") this.#step("rate", -1);
    else return false;
    return true;
  }

  tick(position) {
    const share = this.#player.duration ? position / this.#player.duration : 0;
    for (const line of this.#lines) line.style.left = `${100 * share}%`;
  }

  // -------------------------------------------------- choices

  #step(what, by) {
    if (what === "clip") {
      const clip = this.#clip + by;
      if (clip < 0 || clip >= this.#data.clips.length) return;
      this.#clip = clip;
      this.#choose(false);
    } else {
      const rate = this.#rate + by;
      if (rate < 0 || rate >= this.#data.rates.length) return;
      this.#rate = rate;
      this.#choose(true);
    }
  }

  #select(index) {
    const sound = this.#sounds[index];
    if (!sound) return;
    if (sound.codec !== this.#codec) this.#previous = this.#codec;
    this.#codec = sound.codec;
    this.#player.select(index);
    this.#mark();
    announce(`${sound.name}`);
  }

  #swap() {
    const back = this.#previous ?? (this.#sounds[1] && this.#sounds[1].codec);
    const index = this.#sounds.findIndex((sound) => sound.codec === back);
    if (index >= 0) this.#select(index);
  }

  /** Take the sounds of the chosen clip and rate. */
  async #choose(keepPosition) {
    this.#choice += 1;
    const choice = this.#choice;
    const clip = this.#data.clips[this.#clip];
    const names = new Map(this.#data.codecs.map((codec) => [codec.key, codec.name]));
    const indices = clip.shown[this.#rate] ?? [];
    this.#sounds = [
      { codec: "reference", name: "Reference", audio: clip.reference, kbps: null, scores: [] },
      ...indices.map((i) => {
        const sound = clip.sounds[i];
        return {
          ...sound,
          name: names.get(sound.codec),
          kbps: sound.measured ?? sound.bitrate,
        };
      }),
    ];
    let active = this.#sounds.findIndex((sound) => sound.codec === this.#codec);
    if (active < 0) {
      active = 0;
      this.#codec = "reference";
    }
    this.#parts.clip.value = this.#clip;
    this.#parts.rates.forEach((input, i) => {
      input.checked = i === this.#rate;
    });
    this.#fillTable();
    this.#fillStrips();
    this.#mark();
    const buffers = await Promise.all(this.#sounds.map((sound) => library.get(sound.audio)));
    if (choice !== this.#choice) return;
    // Another sound may have been chosen meanwhile.
    active = this.#sounds.findIndex((sound) => sound.codec === this.#codec);
    this.#player.setSounds(buffers, active, keepPosition);
    this.#axis(buffers[0].duration);
    await this.#paintAll(choice);
  }

  // -------------------------------------------------- elements

  #build(root) {
    const { clips, rates } = this.#data;
    const clip = el(
      "select",
      {
        id: "clip",
        onchange: (event) => {
          this.#clip = Number(event.target.value);
          // After the mouse, keys are for the player again.
          if (!event.target.matches(":focus-visible")) event.target.blur();
          this.#choose(false);
        },
      },
      clips.map((c, i) => el("option", { value: i }, c.name)),
    );
    const inputs = rates.map((rate, i) => {
      return el("input", {
        type: "radio",
        name: "rate",
        value: i,
        onchange: () => {
          this.#rate = i;
          this.#choose(true);
        },
      });
    });
    const rateList = el(
      "fieldset",
      { class: "segments", id: "rates" },
      el("legend", {}, "Rate, kbit/s"),
      el("div", {}, rates.map((rate, i) => el("label", {}, inputs[i], el("span", {}, `${rate}`)))),
    );
    const head = el("thead");
    const body = el("tbody");
    const strips = el("div", { class: "strips" });
    this.#parts = { clip, rates: inputs, head, body, strips };
    root.replaceChildren(
      el(
        "div",
        { class: "compare" },
        el(
          "section",
          { class: "card", "aria-labelledby": "sounds-title" },
          el(
            "div",
            { class: "choose", role: "group", "aria-label": "Clip and rate" },
            el("label", { class: "field" }, el("span", {}, "Clip"), clip),
            rates.length ? rateList : null,
          ),
          el("h2", { id: "sounds-title" }, "Sounds"),
          el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores" },
            el("table", { class: "sounds" }, head, body)),
          el("p", { class: "hint" }, "kbit/s are measured on this clip. Switching keeps the ",
            "position; ", el("kbd", {}, "X"), " goes back to the sound before."),
        ),
        el(
          "section",
          { class: "card", "aria-labelledby": "spectra-title" },
          el(
            "div",
            { class: "card-head" },
            el("h2", { id: "spectra-title" }, "Spectrograms"),
            this.#switch("picture", "What is drawn", [
              ["level", "Level"],
              ["difference", "Difference"],
            ]),
            this.#switch("size", "Size", [
              ["all", "All"],
              ["large", "Selected"],
              ["beside", "Side by side"],
            ]),
          ),
          strips,
          el("div", { class: "key" }),
        ),
      ),
    );
    this.#parts.key = root.querySelector(".key");
  }

  /** Two small buttons of which one is pressed. */
  #switch(what, label, choices) {
    const buttons = choices.map(([value, text]) => {
      return el("button", { type: "button", "data-value": value, onclick: () => set(value) }, text);
    });
    const set = (value) => {
      for (const button of buttons) {
        button.setAttribute("aria-pressed", String(button.dataset.value === value));
      }
      if (what === "size") {
        this.#size = value;
        this.#resize();
      } else if (value !== this.#picture) {
        this.#picture = value;
        this.#paintAll(this.#choice);
      }
    };
    const group = el("div", { class: "switch", role: "group", "aria-label": label }, buttons);
    const now = what === "size" ? this.#size : this.#picture;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.value === now));
    }
    return group;
  }

  #fillTable() {
    const { metrics, rates } = this.#data;
    this.#parts.head.replaceChildren(
      el(
        "tr",
        {},
        el("th", { scope: "col" }, "Sound"),
        el("th", { scope: "col" }, "kbit/s"),
        metrics.map((metric) => el("th", { scope: "col" }, metric.name,
          metric.unit ? el("small", {}, ` ${metric.unit}`) : null)),
      ),
    );
    this.#parts.body.replaceChildren(
      ...this.#sounds.map((sound, i) => {
        const ratio = sound.kbps === null ? 1 : sound.kbps / rates[this.#rate];
        const far = Math.abs(ratio - 1) > FAR;
        const button = el(
          "button",
          { type: "button", class: "sound", "data-sound": i },
          i < 9 ? el("kbd", { "aria-hidden": "true" }, `${i + 1}`) : null,
          el("span", {}, sound.name),
        );
        const rate = sound.kbps === null ? "–" : sound.kbps.toFixed(sound.measured === null ? 1 : 2);
        return el(
          "tr",
          { "data-sound": i, onclick: () => this.#select(i) },
          el("th", { scope: "row" }, button),
          el(
            "td",
            {},
            sound.kbps !== null && sound.measured === null ? `≈ ${rate}` : rate,
            far ? el("small", { class: "far" }, `${ratio.toFixed(1)}× rate`) : null,
          ),
          metrics.map((metric, m) => {
            const score = sound.scores[m] ?? null;
            return el("td", {}, score === null ? "–" : score.toFixed(metric.digits));
          }),
        );
      }),
    );
  }

  #fillStrips() {
    this.#lines = [];
    const strips = this.#sounds.map((sound, i) => {
      const line = el("div", { class: "playhead" });
      this.#lines.push(line);
      const canvas = el("canvas", { role: "img", "aria-label": `Spectrogram: ${sound.name}` });
      const plot = el("div", { class: "plot", onclick: (event) => this.#jump(event, i) }, canvas,
        line);
      return el(
        "figure",
        { class: "strip", "data-sound": i },
        el(
          "figcaption",
          {},
          el("b", {}, sound.name),
          sound.kbps === null ? null : ` ${sound.kbps.toFixed(1)} kbit/s`,
        ),
        el("div", { class: "hertz", "aria-hidden": "true" },
          ["8", "6", "4", "2", "0"].map((text) => el("span", {}, text))),
        plot,
      );
    });
    const line = el("div", { class: "playhead" });
    this.#lines.push(line);
    const delta = el(
      "figure",
      { class: "strip delta" },
      el("figcaption", {}, el("b", {}, "Difference"), ` ±${DIFFERENCE_DB} dB`),
      el("div", { class: "hertz", "aria-hidden": "true" }),
      el("div", { class: "plot", onclick: (event) => this.#jump(event, this.#active()) },
        el("canvas", { role: "img", "aria-label": "Spectrogram: the sound less the reference" }),
        line),
    );
    this.#parts.strips.style.setProperty("--count", strips.length);
    this.#parts.strips.replaceChildren(...strips, delta, el("div", { class: "seconds" }));
    this.#resize();
  }

  /** Which sound is heard. */
  #active() {
    return Math.max(0, this.#sounds.findIndex((sound) => sound.codec === this.#codec));
  }

  /** Lay the spectrograms out as the user wants them. */
  #resize() {
    const { strips } = this.#parts;
    if (!strips) return;
    for (const size of ["large", "beside"]) strips.classList.toggle(size, this.#size === size);
    // Beside the reference stands the sound that is heard; while that is the reference, the first.
    const shown = this.#active() || Math.min(1, this.#sounds.length - 1);
    for (const figure of strips.querySelectorAll("figure[data-sound]")) {
      figure.classList.toggle("shown", Number(figure.dataset.sound) === shown);
    }
    if (this.#size === "beside") this.#paintDifference(shown, this.#choice);
  }

  /** Paint how a sound differs from the reference. */
  async #paintDifference(index, choice) {
    const reference = await spectrum(this.#sounds[0].audio);
    const db = await spectrum(this.#sounds[index].audio);
    if (choice !== this.#choice) return;
    paint(this.#parts.strips.querySelector(".delta canvas"), db, loudest(reference), reference);
  }

  /** A click on a spectrogram lets its sound through, from there on. */
  #jump(event, index) {
    const box = event.currentTarget.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    this.#player.seek(share * this.#player.duration);
    this.#select(index);
  }

  #axis(duration) {
    const step = [0.2, 0.5, 1, 2, 5, 10, 20, 60, 120].find((s) => duration / s <= 9) ?? 300;
    const marks = [];
    for (let i = 0; i * step < duration - 0.3 * step; i += 1) {
      const left = `left:${(100 * i * step) / duration}%`;
      const text = `${Number((i * step).toFixed(1))}${i ? "" : " s"}`;
      marks.push(el("span", { style: left }, text));
    }
    this.#parts.strips.querySelector(".seconds").replaceChildren(...marks);
  }

  #mark() {
    for (const element of this.#parts.body.closest(".compare").querySelectorAll("[data-sound]")) {
      const active = this.#sounds[element.dataset.sound].codec === this.#codec;
      if (element.tagName === "BUTTON") element.setAttribute("aria-pressed", String(active));
      else element.classList.toggle("active", active);
    }
    this.#resize();
  }

  async #paintAll(choice) {
    const kind = this.#picture;
    const { strips, key } = this.#parts;
    key.replaceChildren(
      ...(kind === "level"
        ? [el("span", {}, `−${-FLOOR_DB} dB`), el("i", { class: "level" }), el("span", {}, "0 dB")]
        : [
            el("span", {}, `−${DIFFERENCE_DB} dB (lost)`),
            el("i", { class: "difference" }),
            el("span", {}, `+${DIFFERENCE_DB} dB (added)`),
          ]),
      el("span", { class: "axis" }, "kHz over seconds"),
    );
    const reference = await spectrum(this.#sounds[0].audio);
    const top = loudest(reference);
    for (const [i, sound] of this.#sounds.entries()) {
      const db = await spectrum(sound.audio);
      if (choice !== this.#choice || kind !== this.#picture) return;
      const canvas = strips.querySelector(`figure[data-sound="${i}"] canvas`);
      paint(canvas, db, top, kind === "difference" && i > 0 ? reference : null);
      await new Promise((resume) => setTimeout(resume)); // keep the page awake
    }
  }
}
