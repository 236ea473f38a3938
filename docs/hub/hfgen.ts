/**
 * What the Hub's pages need to know of hfgen, for huggingface.js, packages/tasks/src; each part says where it goes.
 * tests/hub/test_hub_entry.py keeps the snippet equal to that of hfgen's cards. Type-check it in that folder:
 * tsc --ignoreConfig --noEmit --strict --skipLibCheck --module nodenext --target es2022 hfgen.ts
 */
import type { ModelData } from "./model-data.js";
import type { LibraryUiElement } from "./model-libraries.js";

/** The one thing to fill in: where the project is published. */
const REPOSITORY = "https://github.com/ORGANIZATION/hfgen";

/** Into model-libraries-snippets.ts, after `hezar`. */
export const hfgen = (model: ModelData): string[] => [
	`from hfgen import HFGenPipeline

pipeline = HFGenPipeline.from_pretrained("${model.id}")
images = pipeline(seeds=range(16)).images`,
];

/**
 * Into MODEL_LIBRARIES_UI_ELEMENTS of model-libraries.ts, after `hezar`, with `snippets.hfgen`. The key is the cards'
 * `library_name`. Every repository has a model_index.json at its root, which each download fetches once.
 */
export const entry: Record<"hfgen", LibraryUiElement> = {
	hfgen: {
		prettyLabel: "hfgen",
		repoName: "hfgen",
		repoUrl: REPOSITORY,
		docsUrl: `${REPOSITORY}#readme`,
		snippets: hfgen,
		filter: false,
		countDownloads: `path:"model_index.json"`,
	},
};

/** Into TASKS_MODEL_LIBRARIES of tasks/index.ts. */
export const tasks = { "unconditional-image-generation": ["diffusers", "hfgen"] };
