// The page of the gateway: the cluster live, directories, keys. No dependency, no build step.
//
// Invariants: text of users reaches the document as text only (textContent), and URLs only percent-encoded.
const POLL_MS = 2000;
const byId = (id) => document.getElementById(id);

// ---- talking to the gateway

class Problem extends Error {}

async function call(method, url, options = {}) {
  let response;
  try {
    response = await fetch(url, { method, ...options });
  } catch {
    throw new Problem("The gateway does not answer.");
  }
  if (response.ok) return response;
  let detail = `${response.status} ${response.statusText}`;
  try {
    const problem = await response.json();
    detail = `${problem.title}: ${problem.detail}`;
  } catch { /* not every error has a body */ }
  throw new Problem(detail);
}

const json = async (method, url, options) => (await call(method, url, options)).json();

// Names that are not UTF-8 come percent-encoded already.
const encoded = (object, field) =>
  object[`${field}Encoding`] === "percent" ? object[field] : encodeURIComponent(object[field]);

function show(problem) {
  const message = byId("message");
  message.textContent = problem ? problem.message : "";
  message.hidden = !problem;
}

const guarded = (action) => async (...given) => {
  show(null);
  try {
    await action(...given);
  } catch (problem) {
    show(problem);
  }
};

// ---- making elements

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const cell = (...content) => element("td", {}, ...content);
const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function size(text) {
  let number = Number(text);
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

const count = (text) => Number(text).toLocaleString();
const counted = (text, one, many) => `${count(text)} ${Number(text) === 1 ? one : many}`;

// ---- cluster

function tile(name, value) {
  return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
}

function disk(node) {
  const total = Number(node.diskTotalBytes ?? 0);
  if (!total) return "–";
  const free = Number(node.diskFreeBytes);
  const meter = element("meter", { max: total, value: total - free, high: total * 0.9 });
  meter.setAttribute("aria-label", "Disk in use");
  return element("span", {}, meter, ` ${size(free)} free`);
}

function showCluster(cluster) {
  const { health, capacity } = cluster;
  const names = new Map(cluster.nodes.map((node) => [node.number, node.id]));
  byId("cluster-name").textContent = cluster.cluster;
  const up = cluster.nodes.filter((node) => node.reachable).length;
  byId("totals").replaceChildren(
    tile("Nodes up", `${up} of ${cluster.nodes.length}`),
    tile("Partitions led", `${cluster.partitionCount - health.leaderlessPartitions.length} of ${cluster.partitionCount}`),
    tile("Keys", count(capacity.keys)),
    tile("Files and directories", count(capacity.inodes)),
    tile("In files", size(capacity.fileBytes)),
    tile("Disk free", size(capacity.diskFreeBytes)),
    tile("Copies", cluster.replicas),
    tile("Durability", cluster.durability),
  );
  byId("nodes").replaceChildren(...cluster.nodes.map((node) => element("tr", {},
    cell(element("strong", { textContent: node.id }), node.zone ? ` in ${node.zone}` : ""),
    cell(element("span", { className: node.reachable ? "good" : "bad", textContent: node.reachable ? "● up" : "○ does not answer" })),
    cell(String(node.leads)), cell(disk(node)), cell(node.capnp), cell(node.resp || "–"))));
  const leaderless = new Set(health.leaderlessPartitions);
  const known = new Map(cluster.partitions.map((partition) => [partition.partition, partition]));
  const numbers = new Set([...known.keys(), ...leaderless]);
  byId("partitions").replaceChildren(...[...numbers].sort((a, b) => a - b).map((number) => {
    const partition = known.get(number);
    const led = !leaderless.has(number);
    const leader = led ? names.get(partition.leader) ?? `node ${partition.leader}` : "no leader";
    const details = partition ? `term ${partition.term}, ${counted(partition.keys, "key", "keys")}, ${counted(partition.inodes, "inode", "inodes")}` : "nobody tells";
    const replicas = (partition?.replicas ?? []).map((node) => names.get(node) ?? node).join(", ");
    return element("li", { className: led ? "" : "bad", title: replicas ? `Copies on ${replicas}` : "" },
      element("strong", { textContent: `${number}: ${leader}` }), element("span", { textContent: details }));
  }));
}

function showHealth(text, className) {
  const badge = byId("health");
  // Screen readers announce what changes, so only changes are written.
  if (badge.textContent !== text) badge.textContent = text;
  badge.className = `badge ${className}`;
}

async function poll() {
  try {
    const cluster = await json("GET", "/v1/cluster");
    const down = cluster.health.unreachableNodes.length;
    if (!cluster.health.healthy) showHealth(`${cluster.health.leaderlessPartitions.length} partitions without a leader`, "bad");
    else if (down) showHealth(`Working, ${down} of ${cluster.nodes.length} nodes down`, "bad");
    else showHealth("Healthy", "good");
    if (!byId("cluster").hidden) showCluster(cluster);
  } catch (problem) {
    showHealth("Not available", "bad");
    byId("health").title = problem.message;
  }
}

async function pollAlways() {
  if (!document.hidden) await poll();
  setTimeout(pollAlways, POLL_MS);
}

// ---- files; `directory` is a percent-encoded path that ends with a slash

let directory = "/";
let nextEntries = null;

function readable(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function showCrumbs() {
  const crumbs = [element("a", { href: "#/files/", textContent: "/" })];
  let path = "/";
  for (const name of directory.split("/").filter(Boolean)) {
    path += `${name}/`;
    crumbs.push(" ", element("a", { href: `#/files${path}`, textContent: `${readable(name)}/` }));
  }
  byId("crumbs").replaceChildren(...crumbs);
}

function row(entry) {
  const path = directory + encoded(entry, "name");
  const { attributes } = entry;
  const isDirectory = entry.kind === "directory";
  const link = isDirectory
    ? element("a", { href: `#/files${path}/`, textContent: `${entry.name}/` })
    : element("a", { href: `/v1/files${path}`, download: entry.name, textContent: entry.name });
  const remove = element("button", { className: "danger", textContent: "Delete" });
  remove.setAttribute("aria-label", `Delete ${entry.name}`);
  remove.addEventListener("click", guarded(async () => {
    const what = isDirectory ? `the directory ${entry.name} and everything in it` : entry.name;
    if (!confirm(`Delete ${what}?`)) return;
    await call("DELETE", isDirectory ? `/v1/dirs${path}?recursive=true` : `/v1/files${path}`);
    await openDirectory();
  }));
  const changed = new Date(Number(BigInt(attributes.modified) / 1000000n));
  return element("tr", {}, cell(link, entry.kind === "symlink" ? element("span", { className: "quiet", textContent: " → link" }) : ""),
    cell(isDirectory ? "–" : size(attributes.size)), cell(changed.toLocaleString()),
    cell(attributes.mode.toString(8).padStart(4, "0")), cell(remove));
}

async function showEntries(url, fresh) {
  const page = await json("GET", url);
  const rows = page.entries.map(row);
  if (fresh) byId("entries").replaceChildren(...rows);
  else byId("entries").append(...rows);
  if (fresh && rows.length === 0) byId("entries").append(element("tr", {}, cell(element("span", { className: "quiet", textContent: "Empty" }))));
  nextEntries = page.next;
  byId("more-entries").hidden = !nextEntries;
}

const openDirectory = () => showEntries(`/v1/dirs${directory}?limit=200`, true);

// fetch cannot tell how far an upload is.
function upload(file, url) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    const progress = byId("progress");
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) progress.value = event.loaded / event.total;
    });
    request.addEventListener("load", () => {
      if (request.status < 300) return done();
      let detail = String(request.status);
      try {
        detail = JSON.parse(request.responseText).detail;
      } catch { /* not every error has a body */ }
      failed(new Problem(`${file.name}: ${detail}`));
    });
    request.addEventListener("error", () => failed(new Problem(`${file.name}: the upload broke off.`)));
    request.open("PUT", url);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.send(file);
  });
}

// ---- keys; `chosen` is the percent-encoded key and the version the form shows

let chosen = null;
let nextKeys = null;

async function showKeys(url, fresh) {
  const page = await json("GET", url);
  const items = page.keys.map((object) => {
    const button = element("button", { type: "button", textContent: object.key });
    button.addEventListener("click", guarded(() => openKey(encoded(object, "key"), object.key)));
    return element("li", {}, button);
  });
  if (fresh) byId("key-list").replaceChildren(...items);
  else byId("key-list").append(...items);
  if (fresh && items.length === 0) byId("key-list").append(element("li", { className: "quiet", textContent: "No keys" }));
  nextKeys = page.next;
  byId("more-keys").hidden = !nextKeys;
}

const findKeys = () => {
  const prefix = encodeURIComponent(byId("find-keys").elements.prefix.value);
  return showKeys(`/v1/keys?prefix=${prefix}&limit=100`, true);
};

async function openKey(url, shown) {
  const response = await call("GET", `/v1/keys/${url}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const form = byId("key-form").elements;
  form.key.value = shown;
  form.ttl.value = "";
  const expires = response.headers.get("bark-expires-at");
  let state = `Version ${response.headers.get("etag")}, ${bytes.length} bytes`;
  if (expires) state += `, expires ${new Date(Number(expires)).toLocaleString()}`;
  try {
    form.value.value = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    form.value.readOnly = false;
  } catch {
    form.value.value = Array.from(bytes.slice(0, 4096), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    form.value.readOnly = true;
    state += "; not text, shown in hexadecimal";
  }
  byId("key-state").textContent = state;
  chosen = { url, shown, tag: response.headers.get("etag"), text: !form.value.readOnly };
}

async function saveKey() {
  const form = byId("key-form").elements;
  const same = chosen && chosen.shown === form.key.value;
  if (same && !chosen.text) throw new Problem("This value is not text and is not changed here.");
  const url = same ? chosen.url : encodeURIComponent(form.key.value);
  const ttl = form.ttl.value ? `?ttl_ms=${encodeURIComponent(form.ttl.value)}` : "";
  // What was changed by others meanwhile is not overwritten unseen.
  const headers = same ? { "If-Match": chosen.tag } : { "If-None-Match": "*" };
  await call("PUT", `/v1/keys/${url}${ttl}`, { headers, body: form.value.value });
  await openKey(url, form.key.value);
  await findKeys();
}

async function deleteKey() {
  const form = byId("key-form");
  const name = form.elements.key.value;
  if (!name || !confirm(`Delete ${name}?`)) return;
  const url = chosen && chosen.shown === name ? chosen.url : encodeURIComponent(name);
  await call("DELETE", `/v1/keys/${url}`);
  chosen = null;
  form.reset();
  byId("key-state").textContent = "";
  await findKeys();
}

// ---- the address says what is shown

const open = guarded(async () => {
  const address = location.hash.slice(1) || "/cluster";
  const section = ["files", "keys"].find((name) => address.startsWith(`/${name}`)) ?? "cluster";
  for (const name of ["cluster", "files", "keys"]) byId(name).hidden = name !== section;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash.startsWith(`#/${section}`)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (section === "cluster") return poll();
  if (section === "keys") return findKeys();
  directory = address.slice("/files".length) || "/";
  if (!directory.endsWith("/")) directory += "/";
  showCrumbs();
  return openDirectory();
});

byId("upload").addEventListener("change", guarded(async (event) => {
  const progress = byId("progress");
  progress.hidden = false;
  try {
    for (const file of event.target.files) {
      progress.value = 0;
      await upload(file, `/v1/files${directory}${encodeURIComponent(file.name)}`);
    }
  } finally {
    progress.hidden = true;
    event.target.value = "";
    await openDirectory();
  }
}));
byId("new-directory").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  const form = event.target;
  await call("PUT", `/v1/dirs${directory}${encodeURIComponent(form.elements.name.value)}`);
  form.reset();
  await openDirectory();
}));
byId("find-keys").addEventListener("submit", guarded((event) => {
  event.preventDefault();
  return findKeys();
}));
byId("key-form").addEventListener("submit", guarded((event) => {
  event.preventDefault();
  return saveKey();
}));
byId("delete-key").addEventListener("click", guarded(deleteKey));
byId("more-entries").addEventListener("click", guarded(() => showEntries(nextEntries, false)));
byId("more-keys").addEventListener("click", guarded(() => showKeys(nextKeys, false)));
addEventListener("hashchange", open);
open();
pollAlways();
