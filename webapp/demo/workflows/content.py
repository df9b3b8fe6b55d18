"""Articles: researched, drafted, checked, published and announced."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoWorkflow, partial, permanent, step, token, transient

TOPICS = (
    "Heat pumps in old buildings",
    "What the new invoice format means for small shops",
    "Night trains are back",
    "How to read an electricity bill",
    "Five quiet lakes within two hours",
)

CONTENT = DemoWorkflow(
    name="content_pipeline",
    team="editorial",
    starts_with=lambda r: {
        "topic": r.choice(TOPICS),
        "language": r.choice(["en", "de", "fr"]),
        "words": r.choice([600, 900, 1500]),
    },
    steps=(
        step(
            "fetch_brief",
            (0.3, 1),
            lambda r, s: {"brief": token(r, "brief_", 8), "tone": r.choice(["plain", "warm"])},
        ),
        step(
            "research_sources",
            (8, 40),
            lambda r, s: {
                "sources": [f"https://example.org/archive/{r.randrange(1000, 9999)}" for _ in range(3)]
            },
            transient("search provider: read timed out after 30 s", TimeoutError),
        ),
        step(
            "draft_article",
            (20, 80),
            lambda r, s: {
                "draft": token(r, "draft_", 8),
                "draft_words": int(s["words"]) + r.randrange(-60, 60),
            },
            transient("language model is overloaded (529), try again later"),
            permanent(
                "prompt was refused by the provider's policy: medical claims",
                "Brief reworded with the editor, medical section dropped.",
            ),
        ),
        step("check_facts", (10, 30), lambda r, s: {"claims_checked": r.randrange(5, 22), "claims_open": 0}),
        step("make_images", (10, 50), lambda r, s: {"images": [token(r, "img_", 6) for _ in range(2)]}),
        step("review_style", (2, 8), lambda r, s: {"readability": r.randrange(58, 81)}),
        step(
            "publish_article",
            (1, 5),
            lambda r, s: {"url": f"https://www.example.com/{s['language']}/{r.randrange(10_000, 99_999)}"},
            partial(
                "article is online, but the search index was not told: 500 from indexer",
                "Article taken offline again; will be published by the retry.",
                {"unpublished": True, "cache_purged": True},
            ),
            permanent(
                "CMS refused the login: token of the service account has expired",
                "New token for the CMS service account, valid for one year.",
                PermissionError,
            ),
        ),
        step("announce", (0.5, 2), lambda r, s: {"posts": r.randrange(1, 4)}),
    ),
)
