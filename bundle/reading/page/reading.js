"use strict";
// The page of one reader. All text goes in as text; nothing is loaded but from this address.

const $ = (id) => document.getElementById(id);
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const STEP = 0.02; // of the picture, that an arrow key moves the mark
const RETRY = 2000; // milliseconds
const QUESTIONS = ["called", "class", "confidence"];

let labels = {};
let words = {};
let state = null;
let answer = {}; // to the picture that is shown: question -> value; null is "can't say"
let mark = null;
let zoom = 0;
let typed = ""; // digits of a class number above 9, until it is whole
let sending = false;
let looked = 0; // milliseconds, without pauses
let since = null; // when looking began or went on; null while paused

const say = (name, given = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => String(given[key]));
const shown = (id, visible) => { $(id).hidden = !visible; };
const note = (text) => { $("status").textContent = text; };

async function ask(path, options = {}) {
  const response = await fetch(path, { cache: "no-store", redirect: "error", ...options });
  if (response.ok) return response.json();
  const error = new Error(await response.text());
  error.status = response.status;
  throw error;
}

function complain(text) {
  $("error").textContent = text;
  shown("error", text !== "");
}

// Time.

function watch(on) {
  if (since !== null) looked += performance.now() - since;
  since = on && !document.hidden && $("paused").hidden && !$("reading").hidden ? performance.now() : null;
}

function pause(on) {
  if (!state || state.picture === null || sending) return;
  watch(false);
  note("");
  shown("reading", !on);
  shown("paused", on);
  shown("pause", !on);
  watch(!on);
  (on ? $("resume") : $("frame")).focus();
}

// Words.

function speak(language) {
  words = labels[language];
  document.documentElement.lang = language;
  document.title = say("title");
  $("language").value = language;
  for (const part of document.querySelectorAll("[data-label]")) part.textContent = say(part.dataset.label);
  $("smaller").setAttribute("aria-label", say("smaller"));
  $("larger").setAttribute("aria-label", say("larger"));
  const keys = [["R S 0", "key_called"], ["1 2 … 0", "key_digits"], [say("back"), "key_back"], ["Enter", "key_next"],
    ["+ −", "key_zoom"], ["M", "key_mark"], ["C", "key_comment"], ["P", "key_pause"]];
  $("keys").replaceChildren(...keys.flatMap(([key, name]) => [element("dt", "", element("kbd", key)), element("dd", say(name))]));
  if (state) {
    offer();
    tell();
  }
}

function element(tag, text, ...inner) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...inner);
  return made;
}

// Questions.

function choices(question) {
  if (question === "called") {
    return [["R", "real", say("real")], ["S", "synthetic", say("synthetic")], ["0", "unsure", say("unsure")]];
  }
  if (question === "confidence") return [1, 2, 3, 4, 5].map((grade) => [String(grade), grade, ""]);
  return [...state.classes.map((name, place) => [String(place + 1), name, name]), ["0", null, say("unsure")]];
}

function offer() {
  for (const question of QUESTIONS) {
    const options = choices(question).map(([key, value, text], place) => {
      const input = document.createElement("input");
      input.type = "radio";
      input.name = question;
      input.value = String(place);
      input.checked = question in answer && answer[question] === value;
      input.addEventListener("change", () => choose(question, value));
      const label = element("label", "", input, element("kbd", key));
      if (text) label.append(element("span", text));
      return label;
    });
    $(question).querySelector(".options").replaceChildren(...options);
  }
  follow();
}

function open(question) {
  return !(question === "confidence" && answer.called === "unsure");
}

function missing() {
  return QUESTIONS.find((question) => open(question) && !(question in answer));
}

function choose(question, value) {
  answer[question] = value;
  typed = "";
  note("");
  if (!open("confidence")) delete answer.confidence;
  const place = choices(question).findIndex(([, known]) => known === value);
  $(question).querySelectorAll("input")[place].checked = true;
  follow();
}

function takeBack() {
  typed = "";
  const last = [...QUESTIONS].reverse().find((question) => question in answer);
  if (last) delete answer[last];
  offer();
}

function follow() {
  $("confidence").disabled = !open("confidence");
  if (!("confidence" in answer)) for (const input of $("confidence").querySelectorAll("input")) input.checked = false;
  for (const question of QUESTIONS) $(question).classList.toggle("current", question === missing());
  $("next").setAttribute("aria-disabled", String(missing() !== undefined));
}

function digit(key) {
  const question = missing() || (open("confidence") ? "confidence" : "class");
  if (question === "called") {
    if (key === "0") choose("called", "unsure");
  } else if (question === "confidence") {
    if (key >= "1" && key <= "5") choose("confidence", Number(key));
  } else {
    number(typed + key);
  }
}

function number(text, whole = false) {
  const place = Number(text);
  if (place > state.classes.length) {
    typed = "";
    note("");
  } else if (place === 0) {
    choose("class", null);
  } else if (whole || place * 10 > state.classes.length) {
    choose("class", state.classes[place - 1]);
  } else {
    typed = text;
    note(say("typed", { typed }));
  }
}

// The picture.

function magnify(by) {
  const frame = $("frame");
  const middle = [frame.scrollLeft, frame.scrollTop].map((at) => (at + frame.clientWidth / 2) / ZOOMS[zoom]);
  zoom = Math.max(0, Math.min(ZOOMS.length - 1, by === null ? 0 : zoom + by));
  $("sheet").style.width = `${100 * ZOOMS[zoom]}%`;
  $("zoom").textContent = `${ZOOMS[zoom]}×`;
  [frame.scrollLeft, frame.scrollTop] = middle.map((at) => at * ZOOMS[zoom] - frame.clientWidth / 2);
}

function setMark(at) {
  mark = at && at.map((x) => Math.round(1000 * Math.max(0, Math.min(1, x))) / 1000);
  shown("mark", mark !== null);
  $("unset").disabled = mark === null;
  if (mark !== null) {
    [$("mark").style.left, $("mark").style.top] = mark.map((x) => `${100 * x}%`);
    note(say("marked", { x: Math.round(100 * mark[0]), y: Math.round(100 * mark[1]) }));
  } else {
    note("");
  }
}

function markKey(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = STEP * (event.shiftKey ? 5 : 1);
  if (event.key in moves && mark !== null) setMark(mark.map((x, axis) => x + step * moves[event.key][axis]));
  else if (event.key === "Delete" && mark !== null) setMark(null);
  else if (event.key === "Escape") document.activeElement.blur();
  else return false;
  return true;
}

function beginMark() {
  if (mark === null) setMark([0.5, 0.5]);
  $("frame").focus();
}

// From picture to picture.

function tell() {
  const given = { done: state.done, total: state.total, number: state.done + 1 };
  $("count").textContent = say("count", given);
  $("bar").max = state.total;
  $("bar").value = state.done;
  $("frame").setAttribute("aria-label", say("patch", given));
  $("patch").alt = say("patch", given);
}

function show(found) {
  state = found;
  const done = state.picture === null;
  answer = {};
  looked = 0;
  since = null;
  $("comment").value = "";
  shown("progress", true);
  for (const id of ["reading", "pause"]) shown(id, !done);
  shown("finished", done);
  shown("paused", false);
  complain("");
  setMark(null);
  tell();
  offer();
  if (done) return;
  magnify(null);
  $("patch").onload = () => watch(true);
  $("patch").onerror = () => complain(say("unreachable"));
  $("patch").src = `patches/${state.picture}`;
  $("frame").focus({ preventScroll: true });
}

async function send() {
  const lacking = missing();
  if (lacking !== undefined) {
    note(say("incomplete", { question: say(`ask_${lacking}`) }));
    $(lacking).querySelector("input").focus();
    return;
  }
  if (sending) return;
  sending = true;
  watch(false);
  const body = JSON.stringify({
    picture: state.picture,
    called: answer.called,
    class: answer.class,
    confidence: open("confidence") ? answer.confidence : null,
    comment: $("comment").value,
    mark,
    seconds: looked / 1000,
  });
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body };
  for (;;) {
    try {
      show(await ask("answers", options));
      break;
    } catch (error) {
      if (error.status === 403) complain(say("gone"));
      else if (error.status) complain(say("refused", { reason: error.message }));
      else complain(say("unreachable"));
      if (error.status) {
        watch(true);
        break;
      }
      await new Promise((wake) => setTimeout(wake, RETRY));
    }
  }
  sending = false;
}

// Keys.

function press(event) {
  const where = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || !state || sending) return;
  if (where.tagName === "TEXTAREA" || where.tagName === "SELECT") {
    if (event.key === "Escape" && where.tagName === "TEXTAREA") $("frame").focus();
    return;
  }
  if (where === $("frame") && !$("reading").hidden && markKey(event)) {
    event.preventDefault();
    return;
  }
  if (!$("shortcuts").checked || event.repeat) return;
  const key = event.key.toLowerCase();
  if (key === "p") {
    pause($("paused").hidden);
  } else if ($("reading").hidden) {
    return;
  } else if (key === "enter") {
    if (["BUTTON", "SUMMARY"].includes(where.tagName) && where !== $("next")) return;
    if (typed) number(typed, true);
    else send();
  } else if (key === "r") {
    choose("called", "real");
  } else if (key === "s") {
    choose("called", "synthetic");
  } else if (/^[0-9]$/.test(key)) {
    digit(key);
  } else if (key === "+" || key === "=") {
    magnify(1);
  } else if (key === "-") {
    magnify(-1);
  } else if (key === "m") {
    beginMark();
  } else if (key === "c") {
    $("comment").focus();
  } else if (key === "backspace") {
    takeBack();
  } else {
    return;
  }
  event.preventDefault();
}

async function begin() {
  labels = await ask("labels.json");
  const wanted = [location.hash.slice(1), ...navigator.languages.map((name) => name.slice(0, 2)), "en"];
  speak(wanted.find((name) => Object.hasOwn(labels, name)));
  $("language").addEventListener("change", () => {
    history.replaceState(null, "", `#${$("language").value}`);
    speak($("language").value);
  });
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("pause").addEventListener("click", () => pause(true));
  $("resume").addEventListener("click", () => pause(false));
  $("smaller").addEventListener("click", () => magnify(-1));
  $("larger").addEventListener("click", () => magnify(1));
  $("set").addEventListener("click", beginMark);
  $("unset").addEventListener("click", () => setMark(null));
  $("patch").addEventListener("click", (event) => {
    const box = $("patch").getBoundingClientRect();
    setMark([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  });
  document.addEventListener("keydown", press);
  document.addEventListener("visibilitychange", () => watch(true));
  show(await ask("state"));
}

begin().catch((error) => {
  // Before there are words; the texts are those of the page.
  complain(error.status ? error.message : "The program does not answer. Start it again, and open the address it shows.");
});
