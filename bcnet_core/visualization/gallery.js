"use strict";
// pictures: of each its instances, as [class, level, score, IoU]; those that were missed come last
// later: the html of the articles that are not part of the page yet
const {pictures, later} = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
const articles = [...document.querySelectorAll("article")], ready = articles.length, unfilled = new Map();
const nav = document.querySelector("nav"), main = document.querySelector("main");
const output = nav.querySelector("output"), dialog = document.querySelector("dialog");
const selects = [...nav.querySelectorAll("select")], ranges = [...nav.querySelectorAll("[data-range]")];
const style = document.head.appendChild(document.createElement("style"));
let current = null, roi = null;

/* An empty article for each picture that is not there yet; it is filled when it comes near. */
const observer = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) fill(entry.target);
}, {rootMargin: "1500px"});
later.forEach((html, index) => {
  const article = document.createElement("article");
  article.id = "p" + (ready + index + 1);
  article.tabIndex = -1;
  unfilled.set(article, html);
  articles.push(article);
  observer.observe(article);
});
main.append(...articles.slice(ready));

function fill(article) {
  const html = unfilled.get(article);
  if (html === undefined) return;
  unfilled.delete(article);
  observer.unobserve(article);
  const holder = document.createElement("template");
  holder.innerHTML = html;
  article.replaceChildren(...holder.content.firstElementChild.childNodes);
  hideOthers(article, conditions());
}

const shown = () => articles.filter(article => !article.hidden);

/* The conditions that are set, each a function of an instance. */
function conditions() {
  const found = [];
  for (const select of selects) {
    const column = Number(select.dataset.column), value = Number(select.value);
    if (select.value !== "") found.push(one => one[column] === value);
  }
  for (const range of ranges) {
    const column = Number(range.dataset.range);
    const [least, most] = [...range.querySelectorAll("input")].map((input, index) =>
      input.value === "" ? index : Number(input.value));
    if (least > 0) found.push(one => one[column] !== null && one[column] >= least);
    if (most < 1) found.push(one => one[column] !== null && one[column] <= most);
  }
  return found;
}

/* Whether each instance of a picture fulfils the conditions. */
const fitting = (index, asked) => pictures[index].map(one => asked.every(condition => condition(one)));

/* Hide the instances of an article that do not fit. */
function hideOthers(article, asked) {
  const fits = fitting(Number(article.id.slice(1)) - 1, asked);
  article.querySelectorAll(".legend li").forEach((item, place) => { item.hidden = !fits[place]; });
  for (const figure of article.querySelectorAll("[data-instance]"))
    figure.hidden = !fits[Number(figure.dataset.instance)];
}

function filter() {
  const asked = conditions();
  articles.forEach((article, index) => {
    article.hidden = asked.length > 0 && !fitting(index, asked).includes(true);
    if (!article.hidden && !unfilled.has(article)) hideOthers(article, asked);
  });
  output.textContent = shown().length + " pictures";
}

function toggle() {
  const off = [...nav.querySelectorAll("input[type=checkbox]")].filter(box => !box.checked);
  style.textContent = off.map(box => `[data-panel~="${box.value}"]{display:none!important}`).join("");
}

function step(by) {
  const list = shown();
  if (!list.length) return;
  const at = list.indexOf(current), next = at < 0 ? (by > 0 ? 0 : list.length - 1) : at + by;
  current = list[Math.min(Math.max(next, 0), list.length - 1)];
  fill(current);
  current.scrollIntoView();
  current.focus({preventScroll: true});
  output.textContent = list.indexOf(current) + 1 + " of " + list.length;
}

function openRoi(figure) {
  roi = figure;
  const from = figure.querySelector("img"), image = dialog.querySelector("img");
  image.src = from.src;
  image.alt = from.alt;
  dialog.querySelector("p").textContent =
    figure.closest("article").querySelector("h2").textContent + ": " + figure.querySelector("figcaption").textContent;
  if (!dialog.open) dialog.showModal();
}

/* The RoI after or before the one that is open, in the same picture or in the next one that has any. */
function stepRoi(by) {
  const list = shown();
  for (let at = list.indexOf(roi.closest("article")); list[at]; at += by) {
    fill(list[at]);
    const rois = [...list[at].querySelectorAll("[data-instance]:not([hidden])")], here = rois.indexOf(roi);
    const next = here < 0 ? rois.at(by > 0 ? 0 : -1) : rois[here + by];
    if (next) return openRoi(next);
  }
}

nav.addEventListener("change", event => { if (event.target.type === "checkbox") toggle(); else filter(); });
nav.addEventListener("click", event => {
  if (event.target.dataset.step) step(Number(event.target.dataset.step));
  if (event.target.type !== "reset") return;
  for (const select of selects) select.value = "";
  for (const range of ranges) range.querySelectorAll("input").forEach((input, index) => { input.value = index; });
  filter();
});
main.addEventListener("click", event => {
  const figure = event.target.closest("[data-instance]");
  if (!figure || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  openRoi(figure);
});
dialog.addEventListener("click", event => {
  if (event.target.dataset.roi) stepRoi(Number(event.target.dataset.roi));
  if ("close" in event.target.dataset || event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => {
  current = roi.closest("article");
  roi.querySelector("a").focus();
});
document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey || /^(SELECT|INPUT)$/.test(event.target.tagName)) return;
  if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
  event.preventDefault();
  const by = event.key === "ArrowRight" ? 1 : -1;
  if (dialog.open) stepRoi(by); else step(by);
});
