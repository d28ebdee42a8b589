// Small helpers for the document. Text of other people gets into it as text only.

import { Problem } from "./api.js";

export const byId = (id) => document.getElementById(id);

/** An element with these children: elements, or text. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** Show `text` in an element that is hidden without any. */
export function say(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

/** Do `work(fields)` when a form is sent; what is wrong is said in it, and the field at fault gets the focus. */
export function onSubmit(form, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.ariaBusy === "true") return;
    forgive(form);
    const wrong = [...form.elements].find((input) => !input.checkValidity());
    if (wrong) return complain(form, new Problem({ errors: [{ field: wrong.name, message: wrong.validationMessage }] }));
    form.ariaBusy = "true";
    try {
      await work(Object.fromEntries(new FormData(form)));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      complain(form, problem);
    } finally {
      form.ariaBusy = "false";
    }
  });
}

/** Take back what `onSubmit` has complained about. */
export function forgive(form) {
  say(form.querySelector(".error"), null);
  for (const input of form.elements) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  }
}

function complain(form, problem) {
  const text = form.querySelector(".error");
  text.id ||= `${form.id}-error`;
  const named = problem.errors.map(({ field, message }) => ({ input: form.elements[field.split(".")[0]], message }));
  const found = named.filter(({ input }) => input);
  say(text, found.length ? found.map(({ input, message }) => `${input.labels[0].textContent}: ${message}`).join("\n") : problem.message);
  for (const { input } of found) {
    input.ariaInvalid = "true";
    input.setAttribute("aria-errormessage", text.id);
  }
  found[0]?.input.focus();
}
