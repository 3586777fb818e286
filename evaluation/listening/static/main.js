// ------------------------------------------------------------------ main
// Playback controls, keys, help, and which of the two views is shown.

const data = JSON.parse(byId("data").textContent);
byId("data").remove(); // so that the document does not tell a blind listener what there is

const player = new Player();
const views = { compare: new CompareView(data, player), blind: new BlindView(data, player) };
let view = null;

// -------------------------------------------------- playback controls

const controls = (() => {
  const icon = (path) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("d", path);
    svg.append(shape);
    return svg;
  };
  const PLAY = "M8 5v14l11-7z";
  const PAUSE = "M7 5h4v14H7zM13 5h4v14h-4z";
  const LOOP = "M17 17H7v-3l-4 4 4 4v-3h12v-6h-2zM7 7h10v3l4-4-4-4v3H5v6h2z";
  const SPEAKER = "M4 9v6h4l5 5V4L8 9zm12 3a4 4 0 0 0-2-3.5v7A4 4 0 0 0 16 12z";

  const play = el("button", { type: "button", id: "play", onclick: () => player.toggle() });
  const bar = el("input", {
    type: "range",
    id: "position",
    min: 0,
    max: 1,
    step: "any",
    "aria-label": "Position",
    oninput: () => player.seek(Number(bar.value) * player.duration),
  });
  bar.value = 0;
  const time = el("span", { class: "time", id: "time", "aria-hidden": "true" });
  const loop = el("button", { type: "button", id: "loop", "aria-label": "Loop", title: "Loop (L)",
    onclick: () => player.setLoop(!player.loop) }, icon(LOOP));
  const from = el("button", { type: "button", id: "from", "aria-label": "Loop from here",
    title: "Loop from here ([)", onclick: () => setPart("from") }, "[");
  const to = el("button", { type: "button", id: "to", "aria-label": "Loop up to here",
    title: "Loop up to here (])", onclick: () => setPart("to") }, "]");
  const all = el("button", { type: "button", id: "whole", "aria-label": "Loop all again",
    title: "Loop all again (\\)", onclick: () => player.setPart(null) }, "×");
  const volume = el("input", { type: "range", id: "volume", min: 0, max: 1, step: 0.01,
    "aria-label": "Volume", oninput: () => player.setVolume(Number(volume.value)) });
  volume.value = 1;
  byId("transport").append(
    el("div", { class: "inner" }, play, bar, time,
      el("div", { class: "more" }, loop, from, to, all,
        el("label", { class: "volume", title: "Volume" }, icon(SPEAKER), volume))),
  );

  function setPart(edge) {
    const here = player.position();
    const [start, end] = player.part ?? [0, player.duration];
    player.setPart(edge === "from" ? [here, end > here ? end : player.duration]
      : [start < here ? start : 0, here]);
  }

  /** Show whether it plays, loops, and which part. */
  function state() {
    play.replaceChildren(icon(player.playing ? PAUSE : PLAY));
    play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
    loop.setAttribute("aria-pressed", String(player.loop));
    const [start, end] = player.part ?? [0, player.duration];
    const share = (t) => `${player.duration ? (100 * t) / player.duration : 0}%`;
    bar.style.setProperty("--from", player.part ? share(start) : "0%");
    bar.style.setProperty("--to", player.part ? share(end) : "100%");
    all.toggleAttribute("disabled", !player.part);
  }

  /** Show the position. */
  function tick(position) {
    bar.value = player.duration ? position / player.duration : 0;
    const text = `${clock(position)} / ${clock(player.duration)}`;
    if (time.textContent !== text) {
      time.textContent = text;
      bar.setAttribute("aria-valuetext",
        `${position.toFixed(1)} of ${player.duration.toFixed(1)} seconds`);
    }
  }

  return { state, tick, setPart };
})();

// -------------------------------------------------- what moves

let ticking = false;

function tick() {
  const position = player.position();
  controls.tick(position);
  view.tick(position);
}

function frame() {
  tick();
  ticking = player.playing;
  if (ticking) requestAnimationFrame(frame);
}

player.addEventListener("change", () => {
  controls.state();
  if (ticking) tick(); // at once: paused or moved, it must not show the last frame's position
  else frame();
});

// -------------------------------------------------- views

function show(name) {
  if (view === views[name]) return;
  if (view) view.hide();
  player.pause();
  view = views[name];
  for (const [key, tab] of [["compare", byId("tab-compare")], ["blind", byId("tab-blind")]]) {
    tab.setAttribute("aria-selected", String(key === name));
    tab.tabIndex = key === name ? 0 : -1;
    if (key === name) byId("view").setAttribute("aria-labelledby", tab.id);
  }
  document.body.classList.remove("silent");
  view.show(byId("view"));
}

const tabs = [byId("tab-compare"), byId("tab-blind")];
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => show(i ? "blind" : "compare"));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.stopPropagation();
    event.preventDefault();
    tabs[1 - i].focus();
    tabs[1 - i].click();
  });
});

// -------------------------------------------------- help

const KEYS = [
  ["Space", "play, pause"],
  ["1 … 9", "switch to that sound (compare)"],
  ["A … ", "switch to that sound (blind test); then ↑ ↓ rate it"],
  ["R", "reference"],
  ["X", "back to the sound before (compare)"],
  ["← →", "one second back, ahead"],
  [", .", "the same, also while a slider has the focus"],
  ["Home", "to the start"],
  ["[ ] \\", "loop from here, up to here, all again"],
  ["L", "loop on, off"],
  ["N P", "next, previous clip (compare)"],
  ["+ −", "higher, lower rate (compare)"],
  ["?", "this help"],
];

byId("help").append(
  el("h2", { id: "help-title" }, "Keys"),
  el("dl", {}, KEYS.flatMap(([key, text]) => [
    el("dt", {}, key.split(" ").filter(Boolean).map((k) => (k === "…" ? " … " : el("kbd", {}, k)))),
    el("dd", {}, text),
  ])),
  el("p", { class: "hint" }, "A click on a spectrogram switches to that sound, from there on. Everything is in ",
    "this file; nothing is sent anywhere."),
  el("form", { method: "dialog" }, el("button", { class: "primary" }, "Close")),
);
byId("help").addEventListener("click", (event) => {
  if (event.target === byId("help")) byId("help").close(); // a click beside it
});
byId("help-open").addEventListener("click", () => byId("help").showModal());

// -------------------------------------------------- keys

/** Return whether the element with the focus needs this key itself. */
function needsKey(target, key) {
  if (target.matches("select, textarea") || target.matches("input:not([type=range])")) {
    return key !== "?" || !target.matches("[type=radio], [type=checkbox]");
  }
  if (target.id === "position") return false;
  if (target.matches("input[type=range]")) return key.startsWith("Arrow") || key === "Home";
  // Space presses buttons; those of sounds are pressed already when they have been clicked on.
  return key === " " && target.matches("button:not(.sound), summary");
}

document.addEventListener("keydown", (event) => {
  const key = plainKey(event);
  if (!key || byId("help").open) return;
  const radio = event.target.matches("input[type=radio]");
  if (radio ? key.startsWith("Arrow") : needsKey(event.target, key)) return;
  if (key === "?") byId("help").showModal();
  else if (document.body.classList.contains("silent")) return;
  else if (view.key(key)) ;
  else if (key === " ") {
    const sound = event.target.closest("button.sound");
    if (sound && sound.getAttribute("aria-pressed") !== "true") sound.click();
    else player.toggle();
  } else if (key === "ArrowLeft" || key === ",") player.seek(player.position() - 1);
  else if (key === "ArrowRight" || key === ".") {
    player.seek(Math.min(player.position() + 1, player.duration - 0.05));
  } else if (key === "Home") player.seek(0);
  else if (key === "l") player.setLoop(!player.loop);
  else if (key === "[") controls.setPart("from");
  else if (key === "]") controls.setPart("to");
  else if (key === "\\") player.setPart(null);
  else return;
  event.preventDefault();
});

// -------------------------------------------------- begin

window.addEventListener("unhandledrejection", (event) => {
  byId("view").prepend(el("p", { class: "notice" },
    `This browser cannot play the sounds (${event.reason}).`));
});

controls.state();
// A test that was begun goes on after a reload.
show(views.blind.sessionRuns ? "blind" : "compare");
