/* What the theme's script leaves out for the keyboard: it makes code and tables that are wider than the page tab stops,
   without a name; and a formula that is too wide scrolls, but is none. */
"use strict";

const WIDE = {
  ".pst-scrollable-table-container": "Table, scrolls sideways",
  'mjx-container[display="true"]': "Formula, scrolls sideways",
  ".cell_output .output": "Output, scrolls",
  pre: "Code, scrolls sideways",
};

function nameWhatScrolls() {
  for (const [kind, name] of Object.entries(WIDE)) {
    for (const part of document.querySelectorAll(`article :is(${kind})`)) {
      const scrolls =
        getComputedStyle(part).overflowX !== "visible" &&
        (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight);
      part.tabIndex = scrolls ? 0 : -1;
      if (scrolls) {
        part.setAttribute("role", "group");
        part.setAttribute("aria-label", name);
      } else {
        part.removeAttribute("role");
        part.removeAttribute("aria-label");
      }
    }
  }
}

window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  nameWhatScrolls();
  new ResizeObserver(nameWhatScrolls).observe(document.querySelector("article") ?? document.body);
});
