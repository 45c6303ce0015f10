"use strict";

const byId = (id) => document.getElementById(id);
const told = (text) => { byId("told").textContent = text; };
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
let current = []; // requests that "Stop" ends

// fetch() does not tell how much was sent.
function ask(method, address, body = null, headers = {}, sent = () => {}) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open(method, address);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => sent(event.loaded);
    request.onload = () => (request.status < 300 ? done(request.responseText) : failed(new Error(request.responseText)));
    request.onerror = () => failed(new Error("The program does not answer. Is it still running?"));
    request.onabort = () => failed(new Error("Stopped."));
    request.onloadend = () => { current = current.filter((one) => one !== request); };
    current.push(request);
    request.send(body);
  });
}

// ---------------------------------------------------------------------------------------------- sending

async function filesOf(entry, path = "") {
  if (entry.isFile) {
    return [{ path: path + entry.name, file: await new Promise((done, failed) => entry.file(done, failed)) }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives some at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const one of some) found.push(...await filesOf(one, `${path}${entry.name}/`));
  }
}

function words(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

async function sendAll(files) {
  const limits = byId("drop").dataset;
  const total = files.reduce((sum, one) => sum + one.file.size, 0);
  if (!files.length) throw new Error("There is no file in it.");
  if (files.length > Number(limits.files)) throw new Error(`There are more than ${limits.files} files. Send fewer at a time.`);
  if (total > Number(limits.bytes)) throw new Error(`That is more than ${limits.size}. Send less at a time.`);
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  const job = JSON.parse(await ask("POST", "/jobs")).id;
  const sent = new Array(files.length).fill(0);
  let next = 0;
  const show = () => {
    const bytes = sent.reduce((sum, one) => sum + one, 0);
    byId("progress").value = total ? bytes / total : 1;
    byId("progress-told").textContent = bytes < total ? `Sending: ${words(bytes)} of ${words(total)}` : "Sent. Reading…";
  };
  const lane = async () => {
    while (next < files.length) {
      const index = next++;
      const { path, file } = files[index];
      const name = encodeURIComponent(path.replace(/[\ud800-\udfff]/gu, "_"));
      await ask("PUT", `/jobs/${job}/files/${index + 1}`, file, { "X-Name": name }, (loaded) => { sent[index] = loaded; show(); });
      sent[index] = file.size;
      show();
    }
  };
  try {
    show();
    await Promise.all([lane(), lane(), lane(), lane()]);
    await ask("POST", `/jobs/${job}/start`);
  } catch (error) {
    next = files.length;
    current.forEach((one) => one.abort());
    await ask("DELETE", `/jobs/${job}`).catch(() => {});
    throw error;
  }
  location.assign(`/jobs/${job}`);
}

async function send(reading) {
  told("");
  byId("drop").hidden = true;
  byId("sending").hidden = false;
  try {
    await sendAll(await reading);
  } catch (error) {
    told(error.message || "The files cannot be read.");
    byId("drop").hidden = false;
    byId("sending").hidden = true;
  }
}

if (byId("drop")) {
  const drop = byId("drop");
  let inside = 0; // dragenter and dragleave come for each element below
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault()); // do not open it
  drop.addEventListener("dragenter", () => drop.classList.toggle("over", ++inside > 0));
  drop.addEventListener("dragleave", () => drop.classList.toggle("over", --inside > 0));
  drop.addEventListener("drop", (event) => {
    inside = 0;
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((one) => one.webkitGetAsEntry()).filter(Boolean);
    if (!entries.length) return told("Drop a folder or files.");
    send(Promise.all(entries.map((one) => filesOf(one))).then((found) => found.flat()));
  });
  for (const id of ["folder", "files"]) {
    byId(id).addEventListener("change", (event) => {
      const chosen = [...event.target.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
      event.target.value = ""; // so that the same can be chosen again
      send(Promise.resolve(chosen));
    });
  }
  byId("stop").addEventListener("click", () => current.forEach((one) => one.abort()));
}

for (const button of document.querySelectorAll("[data-delete]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    await ask("DELETE", button.dataset.delete).catch(() => {});
    location.assign("/");
  });
}

// ---------------------------------------------------------------------------------------------- waiting

async function follow(address, seconds, seen) {
  for (;;) {
    try {
      if (seen(JSON.parse(await ask("GET", address)))) return;
    } catch (error) {
      location.reload(); // which says what is wrong
      return;
    }
    await wait(seconds);
  }
}

if (byId("wait")) {
  const { state, study } = byId("wait").dataset;
  follow(state, 0.7, (now) => {
    if (study ? study in now.drawn : ["done", "failed"].includes(now.state)) {
      location.reload();
      return true;
    }
    if (now.state === "waiting") byId("wait").textContent = `${now.before} before you`;
    if (now.state === "scoring") {
      byId("wait").textContent = `${now.done} of ${now.total} studies answered`;
      byId("progress").value = now.total ? now.done / now.total : 0;
    }
    return false;
  });
}

if (byId("studies") && document.querySelector("[data-later]")) {
  const { state, waits } = byId("studies").dataset;
  follow(state, 1.5, (now) => {
    for (const [number, made] of Object.entries(now.drawn)) {
      const place = document.querySelector(`.pair[data-number="${Number(number)}"]`);
      if (!place.querySelector("[data-later]")) continue;
      for (const image of place.querySelectorAll("img")) {
        if (made) image.src = image.dataset.later;
        image.hidden = !made;
        delete image.dataset.later;
      }
      place.querySelector(".wait").textContent = made ? "" : "The picture could not be made.";
    }
    return Object.keys(now.drawn).length >= Number(waits);
  });
}

// ---------------------------------------------------------------------------------------------- looking

if (byId("viewer")) {
  const { image, heat } = byId("viewer").dataset;
  const places = [...byId("places").children];
  const slider = byId("place");
  const bars = document.querySelectorAll(".strip rect");
  const show = () => {
    const number = slider ? Number(slider.value) : 1;
    const place = places[number - 1];
    if (slider) {
      byId("image").src = image + number;
      byId("heat").src = heat + number;
      byId("back").disabled = number === 1;
      byId("on").disabled = number === places.length;
    }
    bars.forEach((bar, index) => bar.classList.toggle("shown", index === number - 1));
    byId("where").textContent = places.length > 1 ? `${number} of ${places.length}: ${place.textContent} (${place.dataset.value})` : place.textContent;
  };
  if (slider) {
    const move = (steps) => { slider.value = Number(slider.value) + steps; show(); };
    slider.addEventListener("input", show);
    byId("back").addEventListener("click", () => move(-1));
    byId("on").addEventListener("click", () => move(1));
    bars.forEach((bar, index) => bar.addEventListener("click", () => { slider.value = index + 1; show(); }));
  }
  show();
}

// ---------------------------------------------------------------------------------------------- token

if (byId("login")) {
  const enter = async (token) => {
    try {
      await ask("POST", "/login", token);
      location.assign("/");
    } catch (error) {
      told(error.message);
    }
  };
  byId("login").addEventListener("submit", (event) => {
    event.preventDefault();
    enter(byId("token").value);
  });
  const given = location.hash.slice(1); // which no browser sends, and no server logs
  if (given) {
    history.replaceState(null, "", "/");
    enter(given);
  }
}
