// Shows HTML, and on a change touches only the nodes that differ: focus, selection, scrolling and what a person has opened
// stay where they are. Who finds them is Vue; rows are known by data-key. Times are written in the browser's own zone.

import { h, Text } from "vue";

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

function localise(root) {
  const now = new Date();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.getAttribute("datetime"));
    const text = time.dataset.form === "ago" ? ago(date, now) : clock(date, now);
    if (time.textContent !== text) time.textContent = text;
  }
}

// An attribute is one (^), never a property: a name of HTML means nothing else to Vue.
function drawn(parent) {
  return [...parent.childNodes].map((node) => {
    if (node.nodeType === Node.TEXT_NODE) return h(Text, node.data);
    const attributes = Object.fromEntries([...node.attributes].map(({ name, value }) => [`^${name}`, value]));
    const within = node.childElementCount ? drawn(node) : node.textContent;
    return h(node.localName, { ...attributes, key: node.dataset.key }, within);
  });
}

export default {
  props: { html: String, tag: String },
  render() {
    const wanted = document.createElement("template");
    wanted.innerHTML = this.html;
    return h(this.tag, drawn(wanted.content));
  },
  mounted() {
    localise(this.$el);
    this.clock = setInterval(() => localise(this.$el), 5000);
  },
  updated() {
    localise(this.$el);
  },
  unmounted() {
    clearInterval(this.clock);
  },
};
