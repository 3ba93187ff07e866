"use strict";
// Airflow shows this page in a sandboxed frame, in which a link cannot open a new tab: let the outer page open it.
function openOutside(event) {
  const link = event.target.closest("a[data-outside]");
  if (!link || window.parent === window) return;
  event.preventDefault();
  const outer = window.parent.document.createElement("a");
  outer.href = link.href;
  outer.target = "_blank";
  outer.rel = "noopener";
  window.parent.document.body.append(outer);
  outer.click();
  outer.remove();
}
document.addEventListener("click", openOutside);

// Airflow's theme is a class on the outer page's root.
function followTheme() {
  const root = window.parent.document.documentElement;
  const apply = () => {
    document.documentElement.dataset.theme = root.classList.contains("dark") ? "dark" : "light";
  };
  new MutationObserver(apply).observe(root, { attributes: true, attributeFilter: ["class"] });
  apply();
}
if (window.parent !== window) followTheme();
