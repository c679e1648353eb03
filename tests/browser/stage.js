// One server, one site and one of each browser for all test files that run in this process: starting them takes
// longer than most stories.

import { after, before } from "node:test";

import { Browsers, explained, startServer, startSite } from "./harness.js";

/** `server` and `site` are there as soon as tests run. */
export const stage = { browsers: new Browsers() };

before(async () => {
  stage.server = await startServer();
  stage.site = await startSite(stage.server);
});
after(async () => {
  await stage.browsers.stop();
  stage.site?.stop();
  await stage.server?.stop();
});

/**
 * Call it in a `describe`. `open` opens one of `pages/` and hands it the server's address; `story` makes a test of
 * a function. The pages end with the scene, and their sessions, to which the server would send on for a while.
 */
export function scene() {
  const pages = [];
  after(async () => {
    await Promise.all(pages.splice(0).map((page) => page.close()));
    await stage.server.endSessions();
  });
  return {
    pages,
    story: (tell) => () => explained({ server: stage.server, pages }, tell),
    /** With `link`, one of impairer.js, the page's media goes over that. */
    async open(browser, document, { link } = {}) {
      const page = await stage.browsers[browser].open(`${stage.site.url}/${document}.html`);
      pages.push(page);
      await page.call("open", { ...stage.server.config, relayed: link?.ports });
      return page;
    },
  };
}
