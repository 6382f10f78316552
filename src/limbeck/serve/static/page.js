"use strict";

const PARTS = {
  "image-classification": [["picture", "Picture"]],
  "object-detection": [["picture", "Picture"]],
  "pose-estimation": [["picture", "Picture"], ["box", "Box around the person: left, top, right, bottom in pixels (none: the whole picture)"]],
  "face-recognition": [["picture", "Picture"], ["other", "Another picture, to compare with (optional)"]],
  "text-classification": [["text", "Text"], ["pair", "Second text, of models that read two (optional)"]],
  "question-answering": [["question", "Question"], ["context", "Text that answers it"]],
  "translation": [["text", "Text"]],
  "language-modelling": [["text", "How a text begins"]],
};
const OPTIONAL = new Set(["box", "other", "pair"]);
const PICTURES = new Set(["picture", "other"]);
const COLOURS = ["#0b62c4", "#c2410c", "#0f7b4a", "#8b2fc9", "#b00020", "#0e7490", "#7a5c00", "#be1a7a"];
const SHOWN = 12;
const SMALL = 160;
const $ = (id) => document.getElementById(id);
const state = { server: null, pictures: {}, busy: false };

function made(tag, values = {}, ...children) {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function addField([name, words]) {
  const id = `field-${name}`;
  const field = made("div", { className: "field" }, made("label", { htmlFor: id, textContent: words }));
  if (PICTURES.has(name)) {
    const input = made("input", { id, name, type: "file", accept: "image/*" });
    input.addEventListener("change", () => take(name, input.files[0]));
    const drop = made("div", { className: "drop" }, input, made("p", { className: "note", textContent: "Choose a file, or drop one here." }));
    drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      take(name, event.dataTransfer.files[0]);
    });
    field.append(drop);
  } else {
    const long = name === "text" || name === "context";
    field.append(made(long ? "textarea" : "input", { id, name, required: !OPTIONAL.has(name), autocomplete: "off" }));
  }
  $("fields").append(field);
}

function take(name, file) {
  state.pictures[name] = file;
  if (file) ask();
}

function given() {
  const data = new FormData();
  for (const [name, words] of PARTS[state.server.task]) {
    const value = PICTURES.has(name) ? state.pictures[name] : $(`field-${name}`).value;
    if (value) data.append(name, value);
    else if (!OPTIONAL.has(name)) throw new Error(`Give this first: ${words}`);
  }
  return data;
}

async function ask() {
  if (state.busy || !state.server) return;
  try {
    const data = given();
    state.busy = $("ask").disabled = true;
    say("asking…");
    const started = performance.now();
    const response = await fetch(state.server.teacher ? "predict?teacher=1" : "predict", { method: "POST", body: data });
    const found = await response.json();
    if (!response.ok) throw new Error(found.error);
    await show(found);
    say(`answered in ${Math.round(performance.now() - started)} ms`);
  } catch (error) {
    $("answers").replaceChildren();
    say(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message, true);
  } finally {
    state.busy = $("ask").disabled = false;
  }
}

async function show(found) {
  const both = [["student", found]];
  if (found.teacher) both.push(["teacher", found.teacher]);
  const parts = [];
  for (const [who, each] of both) {
    const title = `${who === "teacher" ? "Teacher" : "Answer"} (version ${each.version})`;
    parts.push(made("section", { className: who }, made("h2", { textContent: title }), ...await answered(each.answers[0])));
  }
  $("answers").replaceChildren(...parts);
}

async function answered(answer) {
  if (answer.top) return [...await seen(), bars(answer.top.map((each) => [each.class, each.probability]))];
  if (answer.probabilities) {
    const rows = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
    return [big(answer.classes.join(", ") || "none"), bars(rows)];
  }
  if ("value" in answer) return [big(answer.value.toPrecision(4))];
  if (answer.objects) return objects(answer.objects);
  if (answer.joints) return joints(answer);
  if (answer.embedding) return embedding(answer);
  if ("answer" in answer) return span(answer);
  return [big(answer.text)];
}

const big = (text) => made("p", { className: "big", textContent: text });

function bars(rows) {
  const list = made("ol", { className: "bars" });
  for (const [name, share] of rows.slice(0, SHOWN)) {
    const fill = made("div", { className: "fill" });
    fill.style.width = `${100 * share}%`;
    const words = made("div", { className: "words" }, made("span", { textContent: name }), made("span", { textContent: `${(100 * share).toFixed(1)} %` }));
    list.append(made("li", {}, words, made("div", { className: "track" }, fill)));
  }
  return list;
}

function table(names, rows) {
  const head = made("tr", {}, ...names.map((name) => made("th", { scope: "col", textContent: name })));
  const body = rows.map((row) => made("tr", {}, ...row.map((value) => made("td", { textContent: value }))));
  return made("div", { className: "wide" }, made("table", {}, made("thead", {}, head), made("tbody", {}, ...body)));
}

async function canvas(label) {
  const file = state.pictures.picture;
  const node = made("canvas");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label);
  try {
    const image = await createImageBitmap(file);
    node.width = image.width;
    node.height = image.height;
    if (image.width < SMALL) node.className = "small";
    const pen = node.getContext("2d");
    pen.drawImage(image, 0, 0);
    const unit = Math.max(image.width, image.height) / 320;
    pen.lineWidth = Math.max(1, 2 * unit);
    pen.font = `${Math.max(9, 12 * unit)}px system-ui, sans-serif`;
    return [node, pen, unit];
  } catch {
    return [made("p", { className: "note", textContent: "This browser cannot show the picture." }), null, 1];
  }
}

async function seen() {
  return state.pictures.picture ? [(await canvas("the picture"))[0]] : [];
}

async function objects(found) {
  const threshold = Math.min(0.3, found.length ? found[0].score : 0);
  const kept = found.filter((each) => each.score >= threshold);
  const names = [...new Set(found.map((each) => each.class))];
  const [node, pen] = await canvas(`the picture with ${kept.length} boxes, listed below`);
  if (pen) {
    for (const each of kept) {
      const [left, top, right, bottom] = each.box;
      const words = `${each.class} ${each.score.toFixed(2)}`;
      const height = parseFloat(pen.font) + 4;
      pen.strokeStyle = pen.fillStyle = COLOURS[names.indexOf(each.class) % COLOURS.length];
      pen.strokeRect(left, top, right - left, bottom - top);
      pen.fillRect(left, Math.max(0, top - height), pen.measureText(words).width + 6, height);
      pen.fillStyle = "#fff";
      pen.fillText(words, left + 3, Math.max(height, top) - 5);
    }
  }
  const rows = kept.map((each) => [each.class, each.score.toFixed(3), each.box.map((edge) => edge.toFixed(0)).join(", ")]);
  const rest = found.length - kept.length;
  const note = made("p", { className: "note", textContent: `${kept.length} ${kept.length === 1 ? "object" : "objects"}` + (rest ? `, and ${rest} less likely ones` : "") });
  return [node, note, ...rows.length ? [table(["class", "score", "left, top, right, bottom"], rows)] : []];
}

async function joints(answer) {
  const rows = Object.entries(answer.joints);
  const [node, pen, unit] = await canvas(`the picture with ${rows.length} joints, listed below`);
  if (pen) {
    const [left, top, right, bottom] = answer.box;
    pen.strokeStyle = COLOURS[0];
    pen.strokeRect(left, top, right - left, bottom - top);
    rows.forEach(([, each], index) => {
      pen.beginPath();
      pen.arc(each.x, each.y, Math.max(2, 4 * unit), 0, 2 * Math.PI);
      pen.fillStyle = COLOURS[index % COLOURS.length];
      pen.strokeStyle = "#fff";
      pen.fill();
      pen.stroke();
    });
  }
  const lines = rows.map(([name, each]) => [name, each.x.toFixed(1), each.y.toFixed(1), each.score.toFixed(3)]);
  return [node, table(["joint", "x", "y", "score"], lines)];
}

async function embedding(answer) {
  const parts = await seen();
  if ("cosine" in answer) parts.push(big(`cosine ${answer.cosine.toFixed(4)}`));
  const first = answer.embedding.slice(0, 8).map((each) => each.toFixed(3)).join(", ");
  parts.push(made("p", { className: "note", textContent: `embedding of ${answer.embedding.length} numbers: ${first}, …` }));
  return parts;
}

function span(answer) {
  if (answer.start === null) return [big("no answer in this text")];
  // Places count characters as Python does, not the halves of JavaScript's strings.
  const letters = Array.from($("field-context").value);
  const part = (from, to) => letters.slice(from, to).join("");
  const around = made("p", {}, part(0, answer.start), made("mark", { textContent: part(answer.start, answer.end) }), part(answer.end));
  return [big(answer.answer), around];
}

async function begin() {
  try {
    state.server = await (await fetch("healthz")).json();
  } catch {
    return say("The server does not answer. Is it still running?", true);
  }
  const { task, version, teacher } = state.server;
  const name = task.replaceAll("-", " ");
  $("task").textContent = document.title = name[0].toUpperCase() + name.slice(1);
  $("versions").textContent = `version ${version}` + (teacher ? `, beside its teacher, version ${teacher.version}` : "");
  PARTS[task].forEach(addField);
  $("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("form").noValidate = true;
}

begin();
