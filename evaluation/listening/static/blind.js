// ------------------------------------------------------------------ blind test
// MUSHRA after ITU-R BS.1534-3: one trial per clip; the open reference, and in random order the
// hidden reference, the low-pass anchor and the codecs, each rated from 0 to 100.
// While a trial runs, nothing in the document names a codec or a clip: sounds are letters.

const WORDS = ["Excellent", "Good", "Fair", "Poor", "Bad"];
const HEARD_S = 0.5; // a sound counts as heard after this long (or all of it, if shorter)
const COLUMNS = ["listener", "session", "clip", "codec", "bitrate_kbps", "measured_kbps", "label",
  "rating", "time"];

const letter = (i) => String.fromCharCode(65 + i);

class BlindView {
  #data;
  #player;
  #key; // in the browser's store
  #session = null;
  #kept = true; // whether the browser stores anything for this page
  #root = null;
  #choice = 0;
  #heardS = 0; // seconds the present sound has been heard without a break
  #lastTime = null;
  #parts = {};

  constructor(data, player) {
    this.#data = data;
    this.#player = player;
    this.#key = `listening-${data.page}`;
    const kept = store.get(this.#key);
    if (kept && Array.isArray(kept.trials) && kept.trials.length) this.#session = kept;
  }

  get sessionRuns() {
    return this.#session !== null;
  }

  show(root) {
    this.#root = root;
    this.#render();
  }

  hide() {
    this.#choice += 1;
    this.#root = null;
  }

  #render() {
    this.#player.pause();
    this.#choice += 1;
    this.#parts = {};
    const session = this.#session;
    document.body.classList.remove("silent");
    if (!session || session.at >= session.trials.length) document.body.classList.add("silent");
    if (!session) this.#renderStart();
    else if (session.at < session.trials.length) this.#renderTrial();
    else this.#renderEnd();
  }

  #keep() {
    this.#kept = store.set(this.#key, this.#session);
    this.#parts.unkept?.toggleAttribute("hidden", this.#kept);
  }

  // -------------------------------------------------- start

  #renderStart() {
    const { rates, codecs, clips } = this.#data;
    if (!rates.length) {
      this.#root.replaceChildren(el("p", { class: "card narrow" }, "There is nothing to rate."));
      return;
    }
    const listener = el("input", {
      id: "listener",
      name: "listener",
      maxlength: 60,
      autocomplete: "name",
      required: true,
    });
    const rate = el("select", { id: "blind-rate" },
      rates.map((r, i) => el("option", { value: i }, `${r} kbit/s`)));
    const boxes = codecs.map((codec) => {
      return el("input", { type: "checkbox", value: codec.key, checked: true });
    });
    const problem = el("p", { class: "problem", role: "alert" });
    const form = el(
      "form",
      {
        class: "card narrow start",
        novalidate: true,
        onsubmit: (event) => {
          event.preventDefault();
          const name = listener.value.replace(/\s+/g, " ").trim();
          const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
          if (!name) {
            problem.textContent = "Please say who listens.";
            listener.focus();
          } else if (!chosen.length) problem.textContent = "Please choose at least one codec.";
          else this.#begin(name, Number(rate.value), chosen, problem);
        },
      },
      el("h2", {}, "Blind test"),
      el(
        "p",
        {},
        "You hear a reference and, in random order, the same clip as coded by different codecs. ",
        "Rate the quality of each compared with the reference, from 0 to 100. One of them is the ",
        "reference itself: find it and give it 100. One is a low-pass version that shows what ",
        "poor may sound like.",
      ),
      el("p", {}, "Use headphones, set the volume before you begin, and leave it there."),
      el("label", { class: "field" }, el("span", {}, "Listener"), listener),
      el("label", { class: "field" }, el("span", {}, "Rate"), rate),
      el(
        "fieldset",
        { class: "checks" },
        el("legend", {}, "Codecs"),
        codecs.map((codec, i) => el("label", {}, boxes[i], el("span", {}, codec.name))),
      ),
      problem,
      el("div", { class: "buttons" },
        el("button", { class: "primary", id: "begin" }, "Begin"),
        el("span", { class: "hint" }, `${clips.length} ${clips.length > 1 ? "trials" : "trial"}`)),
    );
    this.#root.replaceChildren(form);
  }

  #begin(listener, rate, chosen, problem) {
    const trials = this.#data.clips.map((clip, index) => {
      const coded = clip.shown[rate].filter((i) => chosen.includes(clip.sounds[i].codec));
      const what = [{ kind: "reference" }, { kind: "anchor" },
        ...coded.map((i) => ({ kind: "sound", sound: i }))];
      return {
        clip: index,
        coded: coded.length,
        open: false, // whether the open reference was heard
        stimuli: shuffled(what).map((s) => ({ ...s, heard: false, rating: null, time: null })),
      };
    });
    const usable = trials.filter((trial) => trial.coded);
    if (!usable.length) {
      problem.textContent = "None of these codecs has a clip at this rate.";
      return;
    }
    this.#session = {
      id: randomName(),
      listener,
      rate,
      at: 0,
      saved: false,
      trials: shuffled(usable),
    };
    this.#keep();
    this.#render();
  }

  // -------------------------------------------------- trial

  get #trial() {
    return this.#session.trials[this.#session.at];
  }

  async #renderTrial() {
    const session = this.#session;
    const trial = this.#trial;
    const choice = this.#choice;
    const last = session.at === session.trials.length - 1;
    const play = (i) => el("button", {
      type: "button",
      class: "sound",
      "data-sound": i,
      "aria-pressed": "false",
      "aria-label": i ? `Play ${letter(i - 1)}` : "Play reference",
      onclick: () => this.#select(i, true),
    }, i ? letter(i - 1) : "Reference");
    const sliders = trial.stimuli.map((stimulus, i) => {
      const slider = el("input", {
        type: "range",
        min: 0,
        max: 100,
        step: 1,
        "aria-label": `Rating of ${letter(i)}`,
        "data-slider": i,
        oninput: () => this.#rate(i),
        onpointerup: () => this.#rate(i),
        onkeydown: (event) => {
          // A key that leaves the slider where it is (Home at 0) is a rating too.
          if (["Home", "End", "PageUp", "PageDown"].includes(event.key) ||
            event.key.startsWith("Arrow")) setTimeout(() => this.#rate(i));
        },
      });
      slider.value = stimulus.rating ?? 0;
      return slider;
    });
    const outputs = trial.stimuli.map(() => el("output", {}));
    const todo = el("p", { class: "todo", role: "status" });
    const next = el("button", { type: "button", class: "primary", id: "next",
      onclick: () => this.#go(1) }, last ? "Finish" : "Next");
    const unkept = el("p", { class: "problem", hidden: this.#kept },
      "This browser keeps nothing for this page: ratings are lost if it is closed.");
    this.#parts = { sliders, outputs, todo, next, unkept, buttons: [] };
    this.#root.replaceChildren(
      el(
        "section",
        { class: "card trial" },
        el(
          "div",
          { class: "card-head" },
          el("h2", {}, `Trial ${session.at + 1} of ${session.trials.length}`),
          el("progress", { max: session.trials.length, value: session.at,
            "aria-label": "Trials done" }),
          play(0),
        ),
        el(
          "div",
          { class: "scale" },
          el("div", { class: "words", "aria-hidden": "true" },
            WORDS.map((word) => el("span", {}, word))),
          trial.stimuli.map((_, i) => {
            return el("div", { class: "stimulus", "data-stimulus": i }, play(i + 1),
              el("div", { class: "slide" }, sliders[i]), outputs[i]);
          }),
        ),
        todo,
        unkept,
        el(
          "div",
          { class: "buttons" },
          session.at ? el("button", { type: "button", id: "back", onclick: () => this.#go(-1) },
            "Back") : null,
          next,
          el("button", { type: "button", class: "quiet", id: "reset", onclick: () => this.#reset() },
            "Start over"),
        ),
      ),
    );
    this.#parts.buttons = [...this.#root.querySelectorAll("[data-sound]")];
    this.#player.setSounds([], 0, false); // those of the trial before must not be heard here
    this.#update();
    const clip = this.#data.clips[trial.clip];
    const ids = { reference: clip.reference, anchor: clip.anchor };
    const sounds = trial.stimuli.map((s) => ids[s.kind] ?? clip.sounds[s.sound].audio);
    const buffers = await Promise.all([clip.reference, ...sounds].map((id) => library.get(id)));
    if (choice !== this.#choice) return;
    this.#player.setSounds(buffers, 0, false);
    this.#heardS = 0;
    this.#update();
  }

  key(key) {
    if (!this.#session || this.#session.at >= this.#session.trials.length) return false;
    const index = key.length === 1 ? key.charCodeAt(0) - 97 : -1;
    if (index >= 0 && index < this.#trial.stimuli.length) {
      this.#select(index + 1, true);
      this.#parts.sliders[index].focus();
    } else if (key === "r" || key === "0") this.#select(0, true);
    else return false;
    return true;
  }

  #select(index, play) {
    this.#heardS = 0;
    this.#player.select(index);
    if (play) this.#player.play();
    announce(index ? letter(index - 1) : "Reference");
    this.#update();
  }

  tick() {
    const now = performance.now();
    const passed = this.#lastTime === null ? 0 : (now - this.#lastTime) / 1000;
    this.#lastTime = this.#player.playing ? now : null;
    if (!this.#player.playing || !this.#parts.sliders) return;
    this.#heardS += Math.min(passed, 0.25); // a page in the background does not tick
    if (this.#heardS < Math.min(HEARD_S, 0.9 * this.#player.duration)) return;
    const trial = this.#trial;
    const active = this.#player.active;
    const heard = active ? trial.stimuli[active - 1] : trial;
    const field = active ? "heard" : "open";
    if (heard[field]) return;
    heard[field] = true;
    this.#keep();
    this.#update();
  }

  #rate(i) {
    const stimulus = this.#trial.stimuli[i];
    const rating = Number(this.#parts.sliders[i].value);
    if (stimulus.rating === rating) return;
    stimulus.rating = rating;
    this.#session.saved = false;
    stimulus.time = new Date().toISOString();
    this.#keep();
    this.#update();
  }

  /** Bring what is seen up to date with the session. */
  #update() {
    const { sliders, outputs, todo, next, buttons } = this.#parts;
    const trial = this.#trial;
    trial.stimuli.forEach((stimulus, i) => {
      const rated = stimulus.rating !== null;
      outputs[i].textContent = rated ? stimulus.rating : "–";
      sliders[i].classList.toggle("unrated", !rated);
      const word = WORDS[4 - Math.min(4, Math.floor((stimulus.rating ?? 0) / 20))];
      sliders[i].setAttribute("aria-valuetext", rated ? `${stimulus.rating}, ${word}` : "not rated");
    });
    for (const button of buttons) {
      const i = Number(button.dataset.sound);
      button.setAttribute("aria-pressed", String(i === this.#player.active));
      button.classList.toggle("heard", i ? trial.stimuli[i - 1].heard : trial.open);
    }
    const list = (open) => trial.stimuli.map((s, i) => (open(s) ? letter(i) : ""))
      .filter(Boolean).join(", ");
    const unheard = [trial.open ? "" : "the reference", list((s) => !s.heard)].filter(Boolean);
    const unrated = list((s) => s.rating === null);
    const missing = [
      unheard.length ? `listen to ${unheard.join(", ")}` : "",
      unrated ? `rate ${unrated}` : "",
    ].filter(Boolean);
    const text = missing.length ? `Still to do: ${missing.join("; ")}.` : "All heard and rated.";
    if (todo.textContent !== text) todo.textContent = text;
    next.disabled = missing.length > 0;
  }

  #go(by) {
    this.#session.at += by;
    this.#keep();
    this.#render();
    this.#root.focus();
    window.scrollTo(0, 0);
  }

  #reset() {
    const done = this.#session.at >= this.#session.trials.length && this.#session.saved;
    if (!done && !window.confirm("Delete the ratings of this session?")) return;
    store.remove(this.#key);
    this.#session = null;
    this.#render();
  }

  // -------------------------------------------------- end

  #renderEnd() {
    const session = this.#session;
    const names = new Map(this.#data.codecs.map((codec) => [codec.key, codec.name]));
    names.set("reference", "Hidden reference").set("anchor", "Anchor, 3.5 kHz");
    const rows = this.#rows();
    const codecs = [...new Set(rows.map((row) => row.codec))];
    const mean = (codec) => {
      const own = rows.filter((row) => row.codec === codec).map((row) => row.rating);
      return own.reduce((a, b) => a + b, 0) / own.length;
    };
    codecs.sort((a, b) => mean(b) - mean(a));
    const own = rows.filter((row) => row.codec === "reference");
    const missed = own.filter((row) => row.rating < 90).length;
    this.#root.replaceChildren(
      el(
        "section",
        { class: "card narrow" },
        el("h2", {}, "Thank you"),
        el("p", {}, `${rows.length} ratings in ${own.length} ${own.length > 1 ? "trials" : "trial"} `,
          `at ${this.#data.rates[session.rate]} kbit/s. Save them, and send the file to whoever `,
          "asked you to listen."),
        el(
          "div",
          { class: "buttons" },
          el("button", { type: "button", class: "primary", id: "export",
            onclick: () => this.#export() }, "Save ratings (CSV)"),
          el("button", { type: "button", id: "back", onclick: () => this.#go(-1) }, "Back"),
          el("button", { type: "button", class: "quiet", id: "reset", onclick: () => this.#reset() },
            "New test"),
        ),
        el("h3", {}, "Your ratings"),
        el(
          "div",
          { class: "bars" },
          codecs.map((codec) => {
            const value = mean(codec);
            const ours = codec === this.#data.codecs[0].key;
            return [
              el("span", {}, names.get(codec)),
              el("div", { class: ours ? "bar ours" : "bar", "aria-hidden": "true" },
                el("i", { style: `width: ${value}%` })),
              el("b", {}, value.toFixed(0)),
            ];
          }),
        ),
        el("p", { class: "hint" }, "Means over the trials."),
        missed > 0.15 * own.length
          ? el("p", { class: "problem" }, `The hidden reference was rated below 90 in ${missed} of `,
            `${own.length} trials. BS.1534 leaves out who does so in more than 15 %.`)
          : null,
        el("details", {},
          el("summary", {}, "What is in the file"),
          el("p", {}, "One row per rating: ", el("code", {}, COLUMNS.join(", ")), ". The rate of the ",
            "trial is bitrate_kbps; measured_kbps is what this sound took; codec is a codec, ",
            "reference or anchor. Files of several listeners are summed up by ",
            el("code", {}, "codec ratings *.csv"), ".")),
      ),
    );
  }

  #rows() {
    const session = this.#session;
    return session.trials.flatMap((trial) => {
      const clip = this.#data.clips[trial.clip];
      return trial.stimuli.map((stimulus, i) => {
        const sound = stimulus.kind === "sound" ? clip.sounds[stimulus.sound] : null;
        return {
          listener: session.listener,
          session: session.id,
          clip: clip.name,
          codec: sound ? sound.codec : stimulus.kind,
          bitrate_kbps: this.#data.rates[session.rate],
          measured_kbps: sound ? sound.measured : null,
          label: letter(i),
          rating: stimulus.rating,
          time: stimulus.time,
        };
      });
    });
  }

  #export() {
    const lines = this.#rows().map((row) => COLUMNS.map((name) => csvCell(row[name])).join(","));
    const name = this.#session.listener.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
    const rate = this.#data.rates[this.#session.rate];
    const text = `${[COLUMNS.join(","), ...lines].join("\n")}\n`;
    download(`ratings-${name}-${rate}k-${this.#session.id.slice(0, 4)}.csv`, text,
      "text/csv;charset=utf-8");
    this.#session.saved = true;
    this.#keep();
    announce("Saved");
  }
}
