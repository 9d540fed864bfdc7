// The page of the service: it asks the endpoints of this server, and nothing else. Names are only ever set as text.
"use strict";

const at = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxBytes);
let token = sessionStorage.getItem("token");
let asked = null; // the last query: {file} or {id}
let running = null; // the request that is under way
let addresses = []; // of pictures in memory

async function call(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it running?");
  }
  if (response.ok) return response;
  const text = await response.json().then((answer) => answer.error, () => "");
  if (response.status === 401) at("key").hidden = false;
  throw new Error(text || `The server answered ${response.status}.`);
}

function complain(text) {
  at("error").textContent = text;
  at("error").hidden = !text;
}

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function remember(blob) {
  const address = URL.createObjectURL(blob);
  addresses.push(address);
  return address;
}

// Without a token the browser loads pictures by itself; with one, it has to be sent along.
function picture(id, side, alternative) {
  const image = element("img");
  const missing = () => image.replaceWith(element("div", "missing", "no picture"));
  const path = `v1/items/${id}/thumbnail?side=${side}`;
  image.alt = alternative;
  image.addEventListener("error", missing);
  if (!token) image.src = path;
  else
    call(path)
      .then((response) => response.blob())
      .then((blob) => (blob.size ? (image.src = remember(blob)) : missing()), missing);
  return image;
}

function figure(image, title, text) {
  const caption = element("figcaption", "", element("b", "", title));
  if (text) caption.append(element("br"), element("bdi", "", text));
  return element("figure", "", image, caption);
}

function shown(address, alternative) {
  const image = element("img");
  image.alt = alternative;
  image.addEventListener("error", () => image.replaceWith(element("div", "missing", "no preview")));
  image.src = address;
  return image;
}

function tile(hit, ownClass) {
  const kind = ownClass === null ? "unknown" : hit.class === ownClass ? "right" : "wrong";
  const mark = { right: "✓ ", wrong: "✗ ", unknown: "" }[kind];
  const caption = element("span", "caption", element("b", "mark", mark + hit.score.toFixed(3)), element("bdi", "name", hit.class));
  const button = element("button", `tile ${kind}`, picture(hit.id, 256, ""), caption);
  button.type = "button";
  button.title = `${hit.class}: ${hit.path}`;
  button.dataset.id = hit.id;
  button.addEventListener("click", () => (location.hash = `item-${hit.id}`));
  return element("li", "", button);
}

function show(result) {
  const old = addresses;
  addresses = [];
  const own = asked.id === undefined ? null : result.query.class;
  const figures = [];
  if (asked.file) {
    figures.push(figure(shown(remember(asked.file), "your image"), "Your image", asked.file.name));
    if (result.crop) figures.push(figure(shown(result.crop, "the crop that the network sees"), "As the network sees it"));
  } else figures.push(figure(picture(asked.id, 512, "the item"), result.query.class, result.query.path));
  at("asked").replaceChildren(...figures);
  at("found").replaceChildren(...result.neighbours.map((hit) => tile(hit, own)));
  const count = result.neighbours.length;
  at("none").hidden = count > 0;
  at("anyway").hidden = result.min_score === undefined;
  at("reason").textContent = result.min_score === undefined ? "No other image fits." : `No score is ${result.min_score.toFixed(4)} or more.`;
  at("status").textContent = count ? `${count} neighbours` : "No similar image";
  at("result").hidden = false;
  old.forEach((address) => URL.revokeObjectURL(address));
}

async function search() {
  if (!asked || !at("ask").reportValidity()) return;
  running?.abort();
  const request = (running = new AbortController());
  const options = new URLSearchParams({ k: at("k").value });
  if (at("class").value) options.set("class", at("class").value);
  if (!at("similar-row").hidden && at("similar").checked) options.set("min_score", "auto");
  let body;
  if (asked.file) {
    options.set("crop", "true");
    body = new FormData();
    body.append("image", asked.file);
  } else options.set("id", asked.id);
  complain("");
  at("status").textContent = "Searching";
  at("result").setAttribute("aria-busy", "true");
  try {
    const response = await call(`v1/search?${options}`, { method: "POST", body, signal: request.signal });
    show((await response.json()).results[0]);
  } catch (error) {
    if (error.name === "AbortError") return;
    at("result").hidden = true;
    at("status").textContent = "";
    complain(error.message);
  }
  if (running === request) at("result").removeAttribute("aria-busy");
}

function take(files) {
  const file = files?.[0];
  if (!file) return;
  if (file.size > maxBytes) {
    complain(`${file.name} has ${file.size.toLocaleString()} bytes, more than ${maxBytes.toLocaleString()}; take a smaller image.`);
    return;
  }
  asked = { file };
  history.pushState(null, "", location.pathname + location.search);
  search();
}

function follow() {
  const found = /^#item-(\d+)$/.exec(location.hash);
  if (!found) return;
  asked = { id: found[1] };
  search();
}

async function begin() {
  try {
    const facts = await (await call("v1/index")).json();
    const many = (count, one, more) => `${count.toLocaleString()} ${count === 1 ? one : more}`;
    at("facts").textContent = `${many(facts.count, "image", "images")} of ${many(facts.classes, "class", "classes")}.`;
    at("classes").replaceChildren(...facts.class_names.map((name) => Object.assign(element("option"), { value: name })));
    at("similar-row").hidden = !facts.calibration;
    if (facts.calibration) at("threshold").textContent = `(score ${facts.calibration.threshold.toFixed(4)} or more)`;
    if (facts.calibration?.right_accept_rate < 0.5) at("similar").checked = false; // it would hide most right neighbours
    at("similar-row").title = facts.calibration?.cautions.join("\n") ?? "";
    at("key").hidden = true;
    complain("");
    follow();
  } catch (error) {
    complain(error.message);
  }
}

for (const [button, input] of [["choose", "file"], ["photograph", "camera"]]) {
  at(button).addEventListener("click", () => at(input).click());
  at(input).addEventListener("change", () => {
    take(at(input).files);
    at(input).value = ""; // the same file can be chosen again
  });
}
for (const id of ["k", "class", "similar"]) at(id).addEventListener("change", search);
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
at("anyway").addEventListener("click", () => {
  at("similar").checked = false;
  search();
});
at("key").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("token", token);
  begin();
});
addEventListener("hashchange", follow);
addEventListener("paste", (event) => take(event.clipboardData?.files));
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer?.files);
});

if (document.body.dataset.needsToken === "true" && !token) at("key").hidden = false;
else begin();
