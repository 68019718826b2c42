// Small comforts of the desk. Everything works without them.
"use strict";

// A form is sent once: the second press of a hasty double click does nothing.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-once]")) return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  // Later: a button that is disabled now would not send its own name.
  setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
});

// An opened act is ready to be typed into.
document.addEventListener("toggle", (event) => {
  // Opened by a person, not by the page: j and k must go on working until then.
  if (event.target.matches(".ec-acts details[open]") && event.target.contains(document.activeElement)) {
    event.target.querySelector("textarea, input:not([type=hidden])")?.focus();
  }
}, true);

// j and k walk through the list that one came from.
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select") || event.metaKey || event.ctrlKey || event.altKey) return;
  const link = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (link) link.click();
});

// A page that shows how something comes along looks again, unless somebody types on it.
document.addEventListener("DOMContentLoaded", () => {
  const running = document.querySelector("[data-refresh-s]");
  if (!running) return;
  setInterval(() => {
    if (!document.activeElement?.closest("form")) location.reload();
  }, 1000 * Number(running.dataset.refreshS));
});
