"use strict";
// pictures: the instances of each picture, then those that were missed, as [class, level, score, IoU]
// later: html of the articles that are not part of the page yet
const {pictures, later} = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
const articles = [...document.querySelectorAll("article")], ready = articles.length, unfilled = new Map();
const nav = document.querySelector("nav"), main = document.querySelector("main");
const output = nav.querySelector("output"), dialog = document.querySelector("dialog");
const style = document.head.appendChild(document.createElement("style"));
let current = null, roi = null;

/* Add an empty article for each later picture; fill it when it comes near. */
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
  if (!unfilled.has(article)) return;
  const holder = document.createElement("template");
  holder.innerHTML = unfilled.get(article);
  article.replaceChildren(...holder.content.firstElementChild.childNodes);
  unfilled.delete(article);
  observer.unobserve(article);
  hideInstances(article, conditions());
}

const shown = () => articles.filter(article => !article.hidden);

/* The active filters as predicates on an instance. */
function conditions() {
  const found = [];
  for (const select of nav.querySelectorAll("select"))
    if (select.value !== "") found.push(one => one[select.dataset.column] === Number(select.value));
  for (const range of nav.querySelectorAll("[data-range]")) {
    const column = range.dataset.range;
    const [min, max] = [...range.querySelectorAll("input")].map(input => Number(input.value || input.defaultValue));
    if (min > 0) found.push(one => one[column] !== null && one[column] >= min);
    if (max < 1) found.push(one => one[column] !== null && one[column] <= max);
  }
  return found;
}

/* For each instance of a picture, whether it satisfies all filters. */
const matches = (index, filters) => pictures[index].map(one => filters.every(filter => filter(one)));

function hideInstances(article, filters) {
  const fits = matches(Number(article.id.slice(1)) - 1, filters);
  article.querySelectorAll(".legend li").forEach((item, place) => { item.hidden = !fits[place]; });
  for (const figure of article.querySelectorAll("[data-instance]")) figure.hidden = !fits[figure.dataset.instance];
}

function applyFilters() {
  const filters = conditions();
  articles.forEach((article, index) => {
    article.hidden = filters.length > 0 && !matches(index, filters).includes(true);
    if (!article.hidden && !unfilled.has(article)) hideInstances(article, filters);
  });
  output.textContent = shown().length + " pictures";
}

function togglePanels() {
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

/* Open the next or previous RoI, in this picture or the nearest one that has any. */
function stepRoi(by) {
  const list = shown();
  for (let at = list.indexOf(roi.closest("article")); list[at]; at += by) {
    fill(list[at]);
    const rois = [...list[at].querySelectorAll("[data-instance]:not([hidden])")], here = rois.indexOf(roi);
    const next = here < 0 ? rois.at(by > 0 ? 0 : -1) : rois[here + by];
    if (next) return openRoi(next);
  }
}

nav.addEventListener("change", event => { if (event.target.type === "checkbox") togglePanels(); else applyFilters(); });
nav.addEventListener("click", event => {
  if (event.target.dataset.step) step(Number(event.target.dataset.step));
  if (event.target.type !== "reset") return;
  for (const field of nav.querySelectorAll("select, input[type=number]")) field.value = field.defaultValue ?? "";
  applyFilters();
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
  const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!by) return;
  event.preventDefault();
  if (dialog.open) stepRoi(by); else step(by);
});
