// Shows HTML, and on a change touches only the nodes that differ: focus, selection and scrolling stay where they are.
// Keyed children (data-key) are matched by key, others by place. Times are written in the browser's own zone.

const zone = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

function clock(date, now) {
  const today = date.toDateString() === now.toDateString();
  const options = today ? { ...zone, second: "2-digit" } : { ...zone, year: "numeric", month: "short", day: "numeric" };
  return date.toLocaleString(undefined, options);
}

function ago(date, now) {
  const s = Math.round((now - date) / 1000);
  const size = Math.abs(s);
  if (size < 5) return "now";
  const [n, unit] =
    size < 90 ? [size, "s"] : size < 5400 ? [Math.round(size / 60), "min"] : size < 129600 ? [Math.round(size / 3600), "h"] : [Math.round(size / 86400), "days"];
  return s >= 0 ? `${n} ${unit} ago` : `in ${n} ${unit}`;
}

export function localise(root) {
  const now = new Date();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.getAttribute("datetime"));
    const text = time.dataset.form === "ago" ? ago(date, now) : clock(date, now);
    if (time.textContent !== text) time.textContent = text;
  }
}

function attributes(from, to) {
  for (const { name, value } of [...to.attributes]) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
}

function same(a, b) {
  return a && a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function morph(from, to) {
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  if (from.isEqualNode(to)) return;
  if (from.nodeName === "DETAILS") to.open = from.open; // what a person has opened stays open
  attributes(from, to);
  if (from.nodeName !== "TIME") children(from, to); // a time's text is written by localise
}

export function children(from, to) {
  const keyed = new Map();
  for (const child of from.childNodes) if (keyOf(child) !== null) keyed.set(keyOf(child), child);
  let here = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const found = keyOf(wanted) === null ? here : keyed.get(keyOf(wanted));
    if (same(found, wanted)) {
      if (found !== here) from.insertBefore(found, here);
      else here = here.nextSibling;
      morph(found, wanted);
    } else from.insertBefore(wanted, here);
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

export default {
  template: `<component :is="tag"></component>`,
  props: { html: String, tag: String },
  mounted() {
    this.show();
    this.clock = setInterval(() => localise(this.$el), 5000);
  },
  updated() {
    this.show();
  },
  unmounted() {
    clearInterval(this.clock);
  },
  methods: {
    show() {
      const wanted = document.createElement("template");
      wanted.innerHTML = this.html;
      children(this.$el, wanted.content);
      localise(this.$el);
    },
  },
};
