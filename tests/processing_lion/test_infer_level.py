"""Which level an instruction is of: a table of what people ask, traps included."""

import pytest

from processing_lion import PROMPT_TEMPLATES, format_prompt, infer_level


REGION_LEVEL = [
    # the official demonstration and wordings of Shikra's REC template pool
    "In the image <image>, can you locate green plant behind a table visible behind a lady ' s head and let me know "
    "its coordinates?",
    "in the image <image>, can you locate the red square and let me know its coordinates?",
    "Where is the man in red?",
    'Where is "the left dog" in the image?',
    "Where is the dog? answer in [x0,y0,x1,y1] format.",
    "I'd like to know the exact coordinates of the clock in the photo.",
    "What are the coordinates of the giraffe on the right in the image?",
    "Can you disclose the position of the cat in the photograph by stating its coordinates?",
    "Help me to locate the second cup in the image, please.",
    "I'm trying to locate the remote in the image.",
    "Please locate the umbrella.",
    "Detect the traffic light in the image.",
    "Find the woman holding a phone.",
    "Could you please help me in locating the bag?",
    "Identify the position of the ball in the image.",
    "Point me to the location of the fire hydrant in the picture.",
    "In the picture, point out the smallest bird.",
    "Please, point to the tallest building.",
    "Where in the image is the stop sign?",
    # what else people write
    "where is the dog",
    "Where's my cat?",
    "Where are the two zebras?",
    "Where is the person sitting on the bench?",
    "where is the building with the clock tower?",
    "Where is the clock located?",
    "Tell me where the red star is.",
    "show me where the exit is located",
    "Where do you see the kite?",
    "Where does the airplane appear in the picture?",
    "Draw a box around the largest apple.",
    "Give me the bounding box of the truck.",
    "Output the bbox of each car.",
    "What is the location of the yellow triangle in the image?",
    "Is there a dog? If so, give its bounding box.",
    "locate the answer sheet on the desk",
    "pinpoint the license plate",
    # boxes in the text: REG and questions about a region
    "For the given image <image>, can you provide a unique description of the area [0.120,0.300,0.450,0.800]?",
    "What is in [0.1, 0.2, 0.3, 0.4]?",
    "Is the man in (0.12,0.30,0.45,0.80) wearing a hat? Answer yes or no.",
    "Question: what colour is the object at [0.440,0.060,0.650,0.367]? Short answer:",
    "Return the region as [x1, y1, x2, y2].",
]

IMAGE_LEVEL = [
    "please describe the image using a single short sentence.",
    "A short image description:",
    "Please describe the image in detail.",
    "question: what is left of the dog? short answer:",
    "What is located on the table?",
    "Which city is located near the river in the background?",
    "Where was this photo taken?",
    "Where was the picture taken?",
    "Where is this?",
    "Where is this place?",
    "Where is the photo taken?",
    "Where is he going?",
    "Where is the man looking?",
    "Where are the people sitting?",
    "Where is the cat sleeping?",
    "Where is the train headed?",
    "Where would you buy a phone like this?",
    "Where did the boy leave his shoes?",
    "Where can I buy this lamp?",
    "Where is the dog in relation to the cat?",
    "Is the dog left of the cat?",
    "Is the cup on the left or on the right of the plate?",
    "What is to the right of the laptop?",
    "The cat is at the left side of the couch. True or false?",
    'Based on the image, is this statement true or false? "The cat is at the left of the bench." Answer:',
    "Question: Where is the clock? Short answer:",
    "Question: where is the ball? Options: (a) on the grass (b) in the air. Short answer:",
    "Dialog history: is there a dog? yes. where is the dog? on the sofa.\nQuestion: what colour is it? Short answer:",
    "How many apples are there? Options: [1, 2, 3, 4]",
    "What position does the man in blue play?",
    "What animal would use its nose to locate food?",
    "What does the arrow point to?",
    "What is the woman pointing at?",
    "Can you find any mistakes in this drawing?",
    "Can you see a cat in the image?",
    "Can you find a dog in this picture?",
    "Find the number of chairs in the room.",
    "Find out what the man is doing.",
    "Please point out what is wrong with this picture.",
    "What are the GPS coordinates of this landmark?",
    "What coordinates are written on the sign?",
    "Is there a traffic light in the image?",
    "What did the man put in the box?",
    "What is the location of this event?",
    "Who is the person with the spotted dog?",
    "Read the text on the bounding wall.",
    "Describe the area around the house.",
    "What is the weather like where the man is standing?",
    "What time does the clock show?",
    "",
]


@pytest.mark.parametrize("instruction", REGION_LEVEL)
def test_instructions_for_a_place_are_region_level(instruction):
    assert infer_level(instruction) == "region_level"


@pytest.mark.parametrize("instruction", IMAGE_LEVEL)
def test_instructions_for_words_are_image_level(instruction):
    assert infer_level(instruction) == "image_level"


@pytest.mark.parametrize("instruction", REGION_LEVEL + IMAGE_LEVEL)
def test_case_and_outer_blanks_do_not_matter(instruction):
    assert infer_level(f"  {instruction.upper()}\n") == infer_level(instruction)


@pytest.mark.parametrize("name", PROMPT_TEMPLATES)
def test_every_template_is_recognised_at_its_own_level(name):
    values = {"expression": "the red square", "box": "[0.100,0.200,0.300,0.400]"}
    template = PROMPT_TEMPLATES[name]
    prompt = format_prompt(name, **{field: values.get(field, "is the dog brown?") for field in template.fields})
    assert infer_level(prompt) == template.level
