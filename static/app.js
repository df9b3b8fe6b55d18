// Comforts on top of pages that work without any script. Nothing here decides, and nothing is loaded from elsewhere.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const say = (text) => { document.getElementById("say").textContent = text; };

  // Times: the same words as presentation.age, and the reader's own clock in place of UTC.
  const ageWords = (seconds) => {
    const s = Math.max(0, Math.floor(seconds)), m = Math.floor(s / 60), h = Math.floor(s / 3600), d = Math.floor(s / 86400);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${m} min`;
    if (s < 86400) return `${h} h ${m % 60} m`;
    return d < 14 ? `${d} d ${h % 24} h` : `${d} d`;
  };
  const agoWords = (seconds) => Math.abs(seconds) < 5 ? "just now"
    : seconds > 0 ? `${ageWords(seconds)} ago` : `in ${ageWords(-seconds)}`;
  const zoneOf = (moment) => new Intl.DateTimeFormat("en", { timeZoneName: "short" })
    .formatToParts(moment).find((part) => part.type === "timeZoneName").value;
  const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const freshen = (root = document) => {
    const now = Date.now();
    for (const node of all("time[data-ago]", root)) write(node, agoWords((now - Date.parse(node.dateTime)) / 1000));
    for (const node of all("time[data-age]", root)) write(node, ageWords((now - Date.parse(node.dateTime)) / 1000));
  };
  const localise = (root = document) => {
    for (const node of all("time[data-at]", root)) {
      const moment = new Date(node.dateTime);
      if (!moment.getTimezoneOffset()) continue;
      const clock = moment.toLocaleTimeString("sv-SE");
      const day = node.dataset.at === "day" ? `${moment.toLocaleDateString("sv-SE")} ` : "";
      write(node, `${day}${clock} ${zoneOf(moment)}`);
    }
  };
  setInterval(() => { if (!document.hidden) freshen(); }, 10000);

  // A part that somebody works in is never replaced behind their back.
  const reachable = "a,button,input,select,textarea,summary,[tabindex='0']";
  const changed = (control) => {
    if (control.type === "hidden" || control.type === "submit") return false;
    if (control.type === "checkbox" || control.type === "radio") return control.checked !== control.defaultChecked;
    if (control.tagName === "SELECT") {
      return control.selectedIndex !== Math.max(0, [...control.options].findIndex((option) => option.defaultSelected));
    }
    return control.value !== control.defaultValue;
  };
  const busy = (part) => {
    const active = document.activeElement, selection = getSelection();
    return (part.contains(active) && active.matches(reachable))
      || part.querySelector("details[data-touched]") !== null
      || all("input,select,textarea", part).some(changed)
      || (!selection.isCollapsed && part.contains(selection.anchorNode));
  };
  document.addEventListener("click", (event) => {
    const summary = event.target.closest("summary");
    if (summary) summary.parentElement.toggleAttribute("data-touched", !summary.parentElement.open);
  });

  // `data-live` marks parts that renew themselves; "keyed" ones row by row ([data-k] with id and data-v).
  const renewRows = (part, html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const next of all("[data-k]", fresh)) {
      const old = document.getElementById(next.id);
      if (!old || !part.contains(old) || old.dataset.v === next.dataset.v || busy(old)) continue;
      old.replaceWith(next);
      window.htmx.process(next);
      settled(next);
    }
  };
  document.addEventListener("htmx:configRequest", (event) => {
    const { elt, verb, parameters, headers } = event.detail;
    if (elt.matches("[data-live]")) headers["X-Live"] = "1";
    const heard = elt.querySelector("#meanwhile");
    if (heard && verb === "get" && busy(elt)) headers["X-Typing"] = heard.dataset.mark;  // leave the form, tell the news
    if (verb === "get" && elt.matches("form")) {
      for (const name of Object.keys(parameters)) if (parameters[name] === "") delete parameters[name];
    }
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { elt, target, requestConfig } = event.detail;
    if (elt.matches(".gate-form") && elt.querySelector("[aria-disabled=true]")) {
      event.preventDefault();
      sayOf(document.getElementById("meanwhile"));
    }
    if (!elt.matches("[data-live]")) return;
    const replaces = elt.dataset.live !== "keyed" && !requestConfig.headers["X-Typing"];
    if (document.hidden || (replaces && busy(target))) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { requestConfig, target, xhr } = event.detail;
    const elt = requestConfig.elt;
    if (elt.matches("[data-typed-by]") && xhr.status === 403) keepForm(event);
    if (!elt.matches("[data-live]")) return;
    if (!elt.isConnected) event.detail.shouldSwap = false;  // its part was replaced meanwhile
    if (xhr.status < 400) complain("");
    if (xhr.status === 286 || !event.detail.shouldSwap) return;
    if (xhr.status >= 400) event.detail.shouldSwap = false;
    else if (elt.dataset.live === "keyed") {
      event.detail.shouldSwap = false;
      renewRows(elt, xhr.responseText);
    } else if (busy(target)) event.detail.shouldSwap = false;
  });

  // What the server could not be asked is said in words, once.
  const notice = (tone, text, href, label) => {
    const box = document.createElement("div"), words = document.createElement("p");
    box.className = `notice notice-${tone}`;
    words.append(text);
    if (href) {
      const link = document.createElement("a");
      link.href = href;
      link.className = "in-text";
      link.textContent = label;
      words.append(" ", link);
    }
    box.append(words);
    return box;
  };
  const inform = (...what) => document.getElementById("flashes").append(notice("blue", ...what));
  const complain = (text, href, label) => {
    const old = document.getElementById("complaint");
    if (old && old.dataset.text === text) return;  // it was said, and its link may have the focus
    if (old) old.remove();
    if (!text) return;
    const fresh = notice("red", text, href, label);
    fresh.id = "complaint";
    fresh.dataset.text = text;
    document.getElementById("flashes").append(fresh);
  };
  document.addEventListener("htmx:sendError", (event) => {
    complain(event.detail.elt.matches("[data-live]")
      ? "The server cannot be reached: this page is not up to date."
      : "The server cannot be reached. Reload before you try again: it is not known whether this arrived.");
  });
  document.addEventListener("htmx:responseError", (event) => {
    const status = event.detail.xhr.status;
    if (status === 401) {
      const back = encodeURIComponent(location.pathname + location.search);
      complain(`You are signed out. Nothing was changed. ${leaving() ? KEPT : ""}`.trim(), `/login?next=${back}`, "Sign in");
    } else complain(`The server answered with an error (${status}). Reload to see what is recorded.`);
  });

  // What was typed into a decision when its session had ended waits in this tab for the same person, who then has to
  // press again. Never kept: passwords, names typed to confirm, and anything from before somebody signed out here.
  const TYPED = "typed", SIGNED_OUT = "signed-out", KEPT_FOR = 12 * 3600e3;
  const KEPT = "What you typed is kept in this tab until you have signed in again.";
  let isLeaving = false;
  const stored = (work) => { try { return work(); } catch { return null; } };  // a browser may forbid storage
  const forget = () => stored(() => sessionStorage.removeItem(TYPED));
  const hold = (entry) => stored(() => { sessionStorage.setItem(TYPED, JSON.stringify(entry)); return true; }) === true;
  const isOver = (since) => since <= Number(stored(() => localStorage.getItem(SIGNED_OUT)));
  const texts = (form) => all("textarea,input[type=text]:not([data-confirm])", form);
  const typedIn = (form) => {
    const fields = texts(form).filter((field) => field.value.trim()).map((field) => [field.name, field.value]);
    const marks = all("[type=checkbox]:checked", form).map((box) => box.value);
    const { next, failure_key: failure } = form.elements;
    return { who: form.dataset.typedBy, action: form.getAttribute("action"), failure: failure?.value, page: next.value, fields, marks };
  };
  // `unanswered`: the page goes before it is known whether the session had ended.
  const keep = (unanswered = false) => {
    const forms = all("[data-typed-by]").map(typedIn).filter((form) => form.fields.length || form.marks.length);
    const since = performance.timeOrigin;
    return forms.length > 0 && !isOver(since) && hold({ at: Date.now(), since, unanswered, forms });
  };
  const leaving = () => { isLeaving = true; return keep(); };
  window.addEventListener("pagehide", () => { if (isLeaving) keep(); });
  window.addEventListener("storage", (event) => { if (event.key === SIGNED_OUT) forget(); });  // in another tab
  document.addEventListener("submit", (event) => {
    if (event.target.matches("[data-signs-out]")) {
      isLeaving = false;
      forget();
      stored(() => localStorage.setItem(SIGNED_OUT, Date.now()));
    } else if (event.target.matches("[data-typed-by]:not([hx-post])")) keep(true);
  });
  // A form of an earlier session is refused: it stays, with what was typed, and a reload brings both together.
  const keepForm = (event) => {
    const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    if (!answer.getElementById("error") || !leaving()) return;
    event.detail.shouldSwap = false;
    const words = `${answer.querySelector(".error-message").textContent} What you typed is kept.`;
    onTop(event.detail.requestConfig.elt, "red", words, location.href, "Reload");
  };
  const onTop = (form, tone, words, ...link) => {
    form.querySelector(".on-top")?.remove();
    const box = notice(tone, words, ...link);
    box.classList.add("on-top");
    form.prepend(box);
    say(words);
  };
  const putBack = (form, kept) => {
    const values = new Map(kept.fields);
    for (const field of texts(form)) field.value = values.get(field.name) ?? field.value;
    for (const box of all("[type=checkbox]", form)) box.checked = kept.marks.includes(box.value);
    const fold = form.closest("details");
    if (fold) fold.open = true;
    onTop(form, "blue", "What you entered is in the form again. Nothing was decided: look at it as it is now, then press.");
  };
  const bringBack = () => {
    const me = document.querySelector("[data-me]")?.dataset.me, failed = document.getElementById("error");
    const entry = stored(() => JSON.parse(sessionStorage.getItem(TYPED)));
    if (!entry) return;
    forget();
    if (isOver(entry.since) || Date.now() - entry.at > KEPT_FOR) return;
    if (!me) return void (hold({ ...entry, unanswered: false }) && inform(KEPT));
    const mine = entry.forms.filter((form) => form.who === me);
    if (!mine.length || (entry.unanswered && !failed)) return;
    const formOf = (kept) => all("[data-typed-by]").find((form) => form.dataset.typedBy === me
      && form.getAttribute("action") === kept.action && form.elements.failure_key?.value === kept.failure);
    const found = mine.map(formOf), first = found.find(Boolean);
    if (first) {
      found.forEach((form, index) => { if (form) putBack(form, mine[index]); });
      (texts(first).find((field) => field.value) || first.querySelector("button")).focus();
    } else if (location.pathname + location.search === mine[0].page && !failed) {
      const text = mine.flatMap((form) => form.fields).map(([, value]) => value).join(" · ");
      inform(`What you typed is not put back: this was decided or has changed meanwhile. You had typed: ${text}`);
    } else if (hold({ ...entry, unanswered: false })) {
      inform("What you typed before you were signed out is kept.", mine[0].page, "Go back to its form");
    }
  };

  // Typing a name to confirm: the button waits for it; the server checks it again.
  const confirmable = (root = document) => {
    for (const control of all("[data-confirm]", root)) {
      const button = control.form && control.form.querySelector("[data-needs-confirm]");
      if (button) button.disabled = control.value.trim() !== control.dataset.confirm;
    }
  };
  // At once: until a swapped part has settled its button could be pressed.
  document.addEventListener("htmx:afterSwap", () => confirmable());
  document.addEventListener("input", (event) => {
    if (event.target.matches("[data-confirm]")) confirmable(event.target.form);
  });

  // Copying ids.
  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const holder = document.createElement("textarea");
    holder.value = text;
    document.body.append(holder);
    holder.select();
    document.execCommand("copy");
    holder.remove();
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await copy(button.dataset.copy);
    say(`Copied ${button.dataset.copied || button.dataset.copy}`);  // a key is not said aloud
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1200);
  });

  // Theme: the server keeps the choice, the page need not be loaded again.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-theme-form]") || !event.submitter) return;
    event.preventDefault();
    const theme = event.submitter.value;
    document.documentElement.dataset.theme = theme;
    for (const button of all("[name=theme]", form)) button.setAttribute("aria-pressed", String(button.value === theme));
    await fetch(form.action, { method: "POST", body: new FormData(form, event.submitter), redirect: "manual" });
  });

  // Menus close by Escape and by a click elsewhere.
  const closeMenus = (except) => {
    for (const menu of all("details.menu[open]")) if (menu !== except) menu.open = false;
  };
  document.addEventListener("click", (event) => closeMenus(event.target.closest("details.menu")));

  // Keyboard. Single keys only move; none of them decides anything.
  const pages = { o: "/", r: "/runs", g: "/gates", a: "/audit" };
  const typing = (node) => node.matches("input:not([type=checkbox]),select,textarea");
  const move = (by) => {
    const links = all("[data-row]").filter((row) => row.offsetParent !== null)
      .map((row) => row.matches("a") ? row : row.querySelector("a")).filter(Boolean);
    if (!links.length) return;
    const row = document.activeElement.closest("[data-row]");
    const at = row ? links.findIndex((link) => row.contains(link)) : -1;
    links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + by))].focus();
  };
  const openKeys = () => document.getElementById("keys")?.showModal();
  document.addEventListener("click", (event) => { if (event.target.closest("[data-dialog=keys]")) openKeys(); });
  let afterG = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "Escape") {
      const menu = document.activeElement.closest("details.menu[open]");
      closeMenus();
      if (menu) menu.querySelector("summary").focus();
      return;
    }
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    const key = event.key;
    if (event.timeStamp - afterG < 1200 && afterG && pages[key]) {
      afterG = 0;
      location.assign(pages[key]);
    } else if (key === "g") afterG = event.timeStamp;
    else if (key === "j") move(1);
    else if (key === "k") move(-1);
    else if (key === "?") openKeys();
    else if (key === "/") {
      event.preventDefault();
      const search = document.getElementById("search");
      if (search) { search.focus(); search.select(); }
    }
  });

  const last = (selector, part) => all(selector, part).at(-1);
  const sayOf = (node) => { if (node) say(node.textContent.replace(/\s+/g, " ").trim()); };
  // Somebody else decided while this form was open: it stays, its button is off, and that is said once.
  let news = "";
  const newsCame = (heard) => {
    for (const form of all(".gate-form", heard.closest("#decision"))) {
      const isOpen = heard.dataset.open.split(" ").includes(form.dataset.kind);
      form.querySelector("button").setAttribute("aria-disabled", String(!isOpen));
    }
    if (heard.textContent.trim() && heard.textContent !== news) sayOf(heard);
    news = heard.textContent;
  };
  // After a form was answered in place: to its first mistake, or to the newest receipt, which is also read out.
  document.addEventListener("htmx:afterSettle", (event) => {
    const { elt, requestConfig, target } = event.detail;
    if (!requestConfig) return;
    if (elt.id === "meanwhile") newsCame(elt);
    if (elt.id === "decision" && requestConfig.verb === "get") sayOf(last(".story li", elt));  // what came of it
    if (requestConfig.verb !== "post") return;
    const part = target.id ? document.getElementById(target.id) || document.getElementById("error") : elt;
    if (!part) return;
    const mistake = part.querySelector("[aria-invalid=true]");
    (mistake || part).focus({ preventScroll: !mistake });
    sayOf(part.querySelector("[role=alert],.error-message,.revealed-say") || last(".receipt", part));
  });

  const settled = (root) => { freshen(root); localise(root); confirmable(root); };
  document.addEventListener("htmx:afterSettle", (event) => settled(event.detail.elt.parentElement || document));
  settled();
  bringBack();
})();
